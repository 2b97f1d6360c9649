"""Programs for developers; they are not shipped."""
