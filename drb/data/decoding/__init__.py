"""Image files of any kind as 8-bit pixels of one size, decoded by processes of their own."""
