"""One module per version; none is changed once it was released."""
