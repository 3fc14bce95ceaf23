"""The pages of a batch for people: result page, contact sheet, thumbnails, media previews.

Reads the files of a batch; knows nothing of how they were made.
"""
