"""Files on object stores and on the Hub, by fsspec. Nothing here is imported where all paths are of this machine.

urls.py           which paths are URLs
remote_folder.py  files below one URL: read, list, download, upload
patience.py       calls that end when nothing arrives any more
"""
