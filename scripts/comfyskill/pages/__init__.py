"""What people look at: the result page, the contact sheet, thumbnails, media previews.

Reads the files of a batch; knows nothing of how they were made.
"""
