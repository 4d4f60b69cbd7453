"""Rebuilds the training text from Debian packages: corpus.py OUT_FOLDER.

Writes train.txt and valid.txt: documents between form feeds, every 50th document held out.
"""
import glob
import gzip
import hashlib
import html
import re
import subprocess
import sys
import tempfile
from pathlib import Path

# package, files in it, licence of the text
PACKAGES = [
    ("perl-doc", "usr/share/perl/*/pod/*.pod", "Artistic or GPL-1+"),
    ("perl-doc", "usr/share/perl/*/**/*.pod", "Artistic or GPL-1+"),
    ("linux-doc-6.1", "usr/share/doc/linux-doc-6.1/**/*.rst*", "GPL-2"),
    ("git-doc", "usr/share/doc/git/**/*.txt*", "GPL-2"),
    ("python3.11-doc", "usr/share/doc/python3.11/html/_sources/**/*.txt*", "PSF-2"),
    ("vim-runtime", "usr/share/vim/vim*/doc/*.txt", "Vim"),
    ("debian-policy", "usr/share/doc/debian-policy/**/*.txt*", "GPL-2+"),
    ("debian-reference-en", "usr/share/debian-reference/*.en.txt*", "GPL-2+"),
    ("debian-handbook", "usr/share/doc/debian-handbook/html/en-US/*.html", "GPL-2+ or CC-BY-SA-3.0"),
    ("developers-reference", "usr/share/doc/developers-reference/**/*.txt*", "GPL-2+"),
]


def read(path: str) -> str:
    raw = Path(path).read_bytes()
    if path.endswith(".gz"):
        raw = gzip.decompress(raw)
    text = raw.decode("utf-8", "ignore").replace("\x0c", "\n")
    if ".html" in path:
        text = re.sub(r"(?s)<(script|style).*?</\1>|<[^>]+>", "", text)
        text = html.unescape(text)
    text = re.sub(r"[ \t]+\n", "\n", text.replace("\r", "").replace("\t", "        "))
    return re.sub(r"\n{3,}", "\n\n", text).strip()


def main(out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    seen, documents = set(), []
    with tempfile.TemporaryDirectory() as folder:
        for package in dict.fromkeys(name for name, _, _ in PACKAGES):
            subprocess.run(["apt-get", "download", "-q", package], cwd=folder, check=True)
            deb = glob.glob(f"{folder}/{package}_*.deb")[0]
            subprocess.run(["dpkg", "-x", deb, f"{folder}/{package}"], check=True)
            print(Path(deb).name)
        for package, pattern, _ in PACKAGES:
            for path in sorted(glob.glob(f"{folder}/{package}/{pattern}", recursive=True)):
                if not Path(path).is_file():
                    continue
                text = read(path)
                digest = hashlib.sha256(text.encode()).digest()
                if len(text) > 500 and digest not in seen:
                    seen.add(digest)
                    documents.append((digest, text))
    documents.sort()  # by digest: a shuffle that is the same everywhere
    parts = {"valid": documents[::50], "train": [d for i, d in enumerate(documents) if i % 50]}
    for name, part in parts.items():
        (out / f"{name}.txt").write_text("\x0c".join(text for _, text in part))
        print(name, len(part), "documents,", sum(len(text) for _, text in part), "characters")


main(Path(sys.argv[1]))
