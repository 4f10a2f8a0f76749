#!/usr/bin/env python3
"""wheel.py DEST WHEEL RECORD PATTERN: some files of a wheel of the package index.

Takes the files whose paths match PATTERN from the wheel with the file name WHEEL to the folder DEST. It reads only these parts of the
wheel over HTTP; where the index does not serve parts, pip downloads the whole wheel. RECORD is the sha256 of the wheel's list of
files. The list has the sha256 of each file, which is checked before the file gets its name. Files that DEST has already are kept, so
an interrupted run continues where it stopped.
"""

import base64
import hashlib
import io
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
import zipfile

CHUNK = 4 << 20  # bytes of one request
TRIES = 5


def say(text):
    print(f"native: {text}", file=sys.stderr, flush=True)


def index_url():
    if "PIP_INDEX_URL" in os.environ:
        return os.environ["PIP_INDEX_URL"]
    asked = subprocess.run([sys.executable, "-m", "pip", "config", "get", "global.index-url"], capture_output=True, text=True)
    return asked.stdout.strip() or "https://pypi.org/simple"


def find(wheel):
    """Returns the wheel's address, and its size in bytes."""
    project = wheel.split("-")[0].replace("_", "-").lower()
    index = f"{index_url().rstrip('/')}/{project}/"
    request = urllib.request.Request(index, headers={"Accept": "application/vnd.pypi.simple.v1+json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        files = json.load(answer)["files"]
    url = next(urllib.parse.urljoin(index, f["url"]) for f in files if f["filename"] == wheel)
    with urllib.request.urlopen(urllib.request.Request(url, headers={"Range": "bytes=0-0"}), timeout=60) as answer:
        if answer.status != 206:
            raise ValueError("the index does not serve parts of files")
        return url, int(answer.headers["Content-Range"].split("/")[1])


class Remote(io.RawIOBase):
    """A file on a web server, read by ranges."""

    def __init__(self, url, size):
        self.url, self.size, self.at, self.received = url, size, 0, 0

    def readable(self):
        return True

    def seekable(self):
        return True

    def seek(self, offset, whence=io.SEEK_SET):
        self.at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self.at, io.SEEK_END: self.size}[whence]
        return self.at

    def readinto(self, buffer):
        end = min(self.at + len(buffer), self.size)
        if self.at >= end:
            return 0
        for again in range(TRIES):
            try:
                request = urllib.request.Request(self.url, headers={"Range": f"bytes={self.at}-{end - 1}"})
                with urllib.request.urlopen(request, timeout=60) as answer:
                    data = answer.read()
                if answer.status != 206 or len(data) != end - self.at:
                    raise OSError(f"{len(data)} bytes with status {answer.status} in answer to a request for {end - self.at}")
                break
            except OSError as err:
                if again == TRIES - 1:
                    raise
                say(f"{err}; next try in {2**again} s")
                time.sleep(2**again)
        buffer[: len(data)] = data
        self.at = end
        self.received += len(data)
        return len(data)


def download(wheel, folder):
    """Lets pip download the wheel, and returns its path."""
    project, version, python, abi, platform = wheel[: -len(".whl")].split("-")
    subprocess.run(
        [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "-d", folder, f"{project}=={version}"]
        + [f"--platform={name}" for name in platform.split(".")]
        + (["--python-version", python[2:], "--implementation", "cp", "--abi", abi] if python.startswith("cp") else []),
        check=True,
    )
    return os.path.join(folder, wheel)


def extract(archive, dest, wheel, record_sum, pattern, received):
    record_name = next(n for n in archive.namelist() if re.fullmatch(r"[^/]+\.dist-info/RECORD", n))
    record = archive.read(record_name)
    if (got := hashlib.sha256(record).hexdigest()) != record_sum:
        sys.exit(f"native: the list of files of {wheel} has sha256 {got}, expected {record_sum}: the package index serves another file")
    sums = {}
    for line in record.decode().splitlines():
        name, digest, _ = line.rsplit(",", 2)
        sums[name.strip('"')] = digest
    wanted = [i for i in archive.infolist() if re.search(pattern, i.filename) and not i.is_dir()]
    if not wanted:
        sys.exit(f"native: {wheel} has no file that matches {pattern}")
    wanted = [i for i in sorted(wanted, key=lambda i: i.header_offset) if not (dest / i.filename).exists()]
    total, done, began = sum(i.compress_size for i in wanted), 0, time.monotonic()
    told = began
    for info in wanted:
        path = dest / info.filename
        path.parent.mkdir(parents=True, exist_ok=True)
        partial, digest = path.with_name(path.name + ".partial"), hashlib.sha256()
        with archive.open(info) as source, open(partial, "wb") as out:
            while piece := source.read(1 << 20):
                out.write(piece)
                digest.update(piece)
                if (now := time.monotonic()) - told > 5:
                    told = now
                    here = done + min(info.compress_size, info.compress_size * out.tell() // max(info.file_size, 1))
                    rate = here / (now - began)
                    say(f"  {here >> 20} of {total >> 20} MiB, {rate / 2**20:.1f} MiB/s, {(total - here) / max(rate, 1):.0f} s left")
        got = "sha256=" + base64.urlsafe_b64encode(digest.digest()).decode().rstrip("=")
        if got != sums[info.filename]:
            partial.unlink()
            sys.exit(f"native: {info.filename} of {wheel} has {got}, expected {sums[info.filename]}: nothing was installed from it")
        os.replace(partial, path)
        done += info.compress_size
    say(f"{wheel}: {len(wanted)} files, {received() / 2**20:.0f} MiB received in {time.monotonic() - began:.0f} s")


def main(dest, wheel, record_sum, pattern):
    dest = pathlib.Path(dest)
    dest.mkdir(parents=True, exist_ok=True)
    try:
        url, size = find(wheel)
    except (OSError, ValueError, KeyError, StopIteration) as err:
        say(f"reading parts of {wheel} failed ({err}): downloading it as a whole by pip")
        with tempfile.TemporaryDirectory(dir=dest.parent) as folder:
            try:
                path = download(wheel, folder)
            except subprocess.CalledProcessError:
                sys.exit(f"native: could not download {wheel}; check the network or the pip configuration and run again")
            with zipfile.ZipFile(path) as archive:
                extract(archive, dest, wheel, record_sum, pattern, lambda: os.path.getsize(path))
        return
    remote = Remote(url, size)
    try:
        with zipfile.ZipFile(io.BufferedReader(remote, CHUNK)) as archive:
            extract(archive, dest, wheel, record_sum, pattern, lambda: remote.received)
    except OSError as err:
        sys.exit(f"native: {url}: {err}. Run the same command again: complete files are kept")


if __name__ == "__main__":
    if len(sys.argv) != 5:
        sys.exit(__doc__)
    main(*sys.argv[1:])
