"""What a person drew: the HIGHLIGHTS document, its readers, and its rendering to masks and targets."""
