"""What people read: tables, picture, page, progress."""
