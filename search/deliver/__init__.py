"""Files leave the program here: finalists, exports, best-config files, checks."""
