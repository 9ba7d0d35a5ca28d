"""What a row of results is, and the files that hold rows; nothing here needs torch."""
