"""What every room uses: errors, files, settings, languages, random streams, the stage command."""
