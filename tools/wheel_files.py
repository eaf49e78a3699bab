#!/usr/bin/env python3
"""Some files of a wheel, without the rest of it: wheel_files.py URL FOLDER FILE...

A wheel is a zip archive, whose table of contents says where each file lies; ranges of it are asked for over HTTP. The
server has to serve ranges. Whoever calls checks the files' SHA-256.
"""
import io
import pathlib
import sys
import urllib.request
import zipfile


class Remote(io.RawIOBase):
    def __init__(self, url):
        self.url, self.place = url, 0
        with urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=60) as answer:
            self.size = int(answer.headers["Content-Length"])

    def readable(self):
        return True

    def seekable(self):
        return True

    def tell(self):
        return self.place

    def seek(self, offset, whence=io.SEEK_SET):
        self.place = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self.place, io.SEEK_END: self.size}[whence]
        return self.place

    def readinto(self, buffer):
        count = min(len(buffer), self.size - self.place)
        if count <= 0:
            return 0
        wanted = {"Range": f"bytes={self.place}-{self.place + count - 1}"}
        with urllib.request.urlopen(urllib.request.Request(self.url, headers=wanted), timeout=60) as answer:
            if answer.status != 206:
                sys.exit(f"wheel_files: {self.url} is not served in ranges")
            data = answer.read()
        buffer[: len(data)] = data
        self.place += len(data)
        return len(data)


def take(url, folder, *files):
    with zipfile.ZipFile(io.BufferedReader(Remote(url), 1 << 16)) as wheel:
        for file in files:
            target = pathlib.Path(folder, file)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(wheel.read(file))


try:
    take(*sys.argv[1:])
except (OSError, zipfile.BadZipFile, KeyError) as error:  # no connection, not a wheel, no such file in it
    sys.exit(f"wheel_files: {sys.argv[1]}: {error}")
