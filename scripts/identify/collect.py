"""Collect labelled bytes to train `byteloom identify`: packages of Debian and PyPI in, labelled pieces out.

    python scripts/identify/collect.py -o FOLDER            # what packages.lock names
    python scripts/identify/collect.py -o FOLDER --lock     # write packages.lock anew from packages.toml

Every archive is downloaded once to FOLDER/downloads, checked, and cut into pieces in FOLDER/pieces: what is there is
not made again. FOLDER/manifest.jsonl is written last. All pieces of a source package, of every architecture, fall to
one part (train, validation or test), and equal pieces count once.
"""

from __future__ import annotations

import argparse
import base64
import bz2
import gzip
import hashlib
import importlib.util
import io
import json
import lzma
import marshal
import random
import re
import subprocess
import sys
import tarfile
import tomllib
import urllib.request
import zipfile
from collections import Counter, defaultdict
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path

import zstandard

from byteloom.corpus import Corpus, Document
from byteloom.errors import ByteloomError
from byteloom.files import atomic_write, write_json
from byteloom.tasks.identify.labels import CODE_OF

HERE = Path(__file__).parent
PIECE = 256 << 10  # bytes of a piece, at most
FILES, BYTES = 40, 1 << 20  # of one label that one archive gives, at most
SHARES = {"test": 15, "validation": 8}  # per cent of the source packages

EXTENSIONS = {
    "c": "c h cc cpp cxx hpp hh hxx inl",
    "go": "go",
    "java": "java",
    "javascript": "js mjs cjs",
    "typescript": "ts tsx",
    "ocaml": "ml mli",
    "haskell": "hs lhs",
    "lisp": "el lisp scm cl lsp",
    "lua": "lua",
    "perl": "pl pm t",
    "php": "php inc",
    "python": "py",
    "ruby": "rb",
    "rust": "rs",
    "shell": "sh bash zsh",
    "tcl": "tcl tm",
    "cmake": "cmake",
    "makefile": "mk mak",
    "sql": "sql",
    "text": "txt",
    "markdown": "md",
    "rst": "rst",
    "tex": "tex sty cls dtx ltx",
    "roff": "1 2 3 3pm 3perl 5 7 8",
    "html": "html htm xhtml",
    "xml": "xml xsl xslt xsd rng docbook ui",
    "svg": "svg",
    "css": "css scss less",
    "json": "json",
    "yaml": "yaml yml",
    "ini": "ini desktop conf cfg",
    "csv": "csv tsv",
    "po": "po pot",
    "png": "png",
    "jpeg": "jpg jpeg",
    "gif": "gif",
    "webp": "webp",
    "bitmap": "bmp",
    "tiff": "tif tiff",
    "ico": "ico",
    "xpm": "xpm",
    "wav": "wav",
    "ogg": "ogg oga",
    "mp3": "mp3",
    "flac": "flac",
    "pdf": "pdf",
    "postscript": "ps eps",
    "truetype": "ttf",
    "opentype": "otf",
    "woff": "woff",
    "type1 font": "pfb t1",
    "sqlite": "sqlite db sqlite3",
    "gettext catalogue": "mo gmo",
    "java class": "class",
}
LABEL_OF = {extension: label for label, extensions in EXTENSIONS.items() for extension in extensions.split()}
NAMES = {
    "changelog": "text",
    "copyright": "text",
    "README": "text",
    "NEWS": "text",
    "CMakeLists.txt": "cmake",
    "Makefile": "makefile",
}
SHEBANGS = {"python": "python", "perl": "perl", "ruby": "ruby", "bash": "shell", "sh": "shell", "php": "php"}
MAGIC = {
    "png": b"\x89PNG",
    "jpeg": b"\xff\xd8\xff",
    "gif": b"GIF8",
    "webp": b"RIFF",
    "bitmap": b"BM",
    "wav": b"RIFF",
    "ogg": b"OggS",
    "flac": b"fLaC",
    "pdf": b"%PDF",
    "opentype": b"OTTO",
    "truetype": b"\x00\x01\x00\x00",
    "woff": b"wOF",
    "sqlite": b"SQLite",
    "java class": b"\xca\xfe\xba\xbe",
}
SIGNS = {  # of which a text must hold one, where an extension promises too much
    "php": rb"<\?php|<\?=",
    "html": rb"(?i)<html|<body|<div|<table|<p>|<!doctype",
    "xml": rb"<\?xml|</",
    "svg": rb"<svg",
    "po": rb"msgid",
    "roff": rb"(?m)^[.']\\?[\"A-Za-z]",
    "csv": rb"[,\t;]",
    "tcl": rb"(?m)^\s*(proc|set|package|namespace|if|puts|#)",
    "perl": rb"[$@%]\w|\bsub\b|\buse\b",
    "postscript": rb"%!",
    "ini": rb"(?m)^\s*\[?[\w .-]+\]?\s*(=|$)",
    "typescript": rb"\b(import|export|interface|const|declare)\b",
    "xpm": rb"char *\*|XPM",
}
TEXTS = frozenset(
    label for label, extensions in EXTENSIONS.items() if label not in MAGIC and label not in ("mp3", "tiff", "ico")
) - {"type1 font", "gettext catalogue"}


@dataclass(frozen=True, order=True)
class Archive:
    """One file to download. source: the source package, of which all parts lie on one side of the split."""

    url: str
    sha256: str
    source: str
    architecture: str


@dataclass(frozen=True)
class Piece:
    """Labelled bytes. whole: a whole file; otherwise a part of one, such as a section of code."""

    label: str
    name: str
    data: bytes
    whole: bool


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--lock", action="store_true", help="write packages.lock anew")
    parser.add_argument("--debian", default="http://deb.debian.org/debian", help="a Debian mirror")
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    lock = HERE / "packages.lock"
    if options.lock:
        archives = [*debian_archives(options.debian), *wheel_archives(options.output / "downloads")]
        with atomic_write(lock, "w") as file:
            file.writelines(json.dumps(asdict(archive)) + "\n" for archive in archives)
    archives = [Archive(**json.loads(line)) for line in lock.read_text().splitlines()]
    downloads, pieces = options.output / "downloads", options.output / "pieces"
    pieces.mkdir(parents=True, exist_ok=True)
    downloads.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(4) as threads, ProcessPoolExecutor(options.processes) as processes:
        fetched = {threads.submit(download, archive, downloads): archive for archive in archives}
        cuts = []
        for number, future in enumerate(as_completed(fetched), 1):
            cuts.append(processes.submit(cut_archive, fetched[future], future.result(), pieces))
            print(f"\rdownloaded {number} of {len(archives)}", end="", file=sys.stderr)
        for number, cut in enumerate(as_completed(cuts), 1):
            cut.result()
            print(f"\rcut {number} of {len(archives)} archives", end="", file=sys.stderr)
    print(file=sys.stderr)
    write_manifest(archives, options.output)


# What to download


def debian_archives(mirror: str) -> Iterator[Archive]:
    """The packages of packages.toml as Debian's indices name them; one that a suite lacks is left out."""
    wanted = tomllib.loads((HERE / "packages.toml").read_text())
    suites = {**wanted["compiled"]["suites"]}
    for architecture, suite in suites.items():
        names = list(wanted["compiled"]["packages"])
        if architecture == "amd64":
            names += wanted["data"]["packages"]
        index = debian_index(mirror, suite, architecture)
        for name in names:
            if name in index:
                package = index[name]
                source = package.get("Source", name).split()[0]
                yield Archive(f"{mirror}/{package['Filename']}", package["SHA256"], source, architecture)


def debian_index(mirror: str, suite: str, architecture: str) -> dict[str, dict[str, str]]:
    url = f"{mirror}/dists/{suite}/main/binary-{architecture}/Packages.xz"
    print(f"reading {url}", file=sys.stderr)
    with urllib.request.urlopen(url) as response:
        text = lzma.decompress(response.read()).decode()
    index = {}
    for paragraph in text.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in paragraph.splitlines() if ": " in line and line[0] != " ")
        if "Package" in fields:
            index[fields["Package"]] = fields
    return index


def wheel_archives(folder: Path) -> Iterator[Archive]:
    """The wheels of packages.toml; pip finds them, and they lie in `folder` already."""
    folder.mkdir(parents=True, exist_ok=True)
    wheels = tomllib.loads((HERE / "packages.toml").read_text())["wheels"]
    platforms = {
        "windows": ("win_amd64", "win32", "win_arm64"),
        "macos": ("macosx_11_0_arm64", "macosx_10_9_x86_64"),
        "pure": ("any",),
    }
    for kind, requirements in wheels.items():
        for requirement in requirements:
            for platform in platforms[kind]:
                command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:"]
                command += ["--python-version", "3.11", "-d", str(folder / platform), requirement]
                command += ["--platform", platform] if platform != "any" else []
                if subprocess.run(command, capture_output=True).returncode:
                    continue  # no wheel for this platform
                name = requirement.partition("==")[0].replace("-", "_").lower()
                for path in sorted((folder / platform).glob("*.whl")):
                    if path.name.lower().replace("-", "_").startswith(name + "_"):
                        digest = hashlib.sha256(path.read_bytes()).hexdigest()
                        yield Archive(f"pypi:{requirement}:{platform}:{path.name}", digest, f"pypi-{name}", platform)


def download(archive: Archive, folder: Path) -> Path:
    """The archive's file in `folder`, downloaded unless it is there. Raises SystemExit for other bytes than locked."""
    if archive.url.startswith("pypi:"):
        _, requirement, platform, name = archive.url.split(":")
        path = folder / platform / name
        if not path.exists():
            command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:"]
            command += ["--python-version", "3.11", "-d", str(path.parent), requirement]
            subprocess.run(command + (["--platform", platform] if platform != "any" else []), check=True)
    else:
        path = folder / f"{archive.sha256[:12]}-{archive.url.rpartition('/')[2]}"
        if not path.exists():
            with urllib.request.urlopen(archive.url) as response, atomic_write(path) as file:
                while block := response.read(1 << 20):
                    file.write(block)
    if hashlib.sha256(path.read_bytes()).hexdigest() != archive.sha256:
        sys.exit(f"{path} is not what packages.lock names; delete it, or write the lock anew with --lock")
    return path


# What is in it


def cut_archive(archive: Archive, path: Path, folder: Path) -> None:
    """Write the labelled pieces of one archive to `folder`: a .bin of bytes, and a .json that is written last."""
    target = folder / archive.sha256[:16]
    index = target.with_suffix(".json")
    if index.exists():
        return
    draw = random.Random(archive.sha256)
    kept, count, size = [], Counter(), Counter()
    pieces = list(_pieces(path, archive, draw))
    draw.shuffle(pieces)
    for piece in pieces:
        if count[piece.label] < FILES and size[piece.label] + len(piece.data) <= BYTES:
            count[piece.label] += 1
            size[piece.label] += len(piece.data)
            kept.append(piece)
    kept += _made(kept, archive, draw)
    rows, offset = [], 0
    with atomic_write(target.with_suffix(".bin")) as file:
        for piece in kept:
            file.write(piece.data)
            row = {"label": piece.label, "name": piece.name, "offset": offset, "size": len(piece.data)}
            rows.append(row | {"whole": piece.whole, "sha256": hashlib.sha256(piece.data).hexdigest()})
            offset += len(piece.data)
    write_json(index, rows)


def _pieces(path: Path, archive: Archive, draw: random.Random) -> Iterator[Piece]:
    budget = Counter()
    for document in Corpus([path], min_size=64, max_size=32 << 20):
        name = document.name.rpartition("!")[2]
        if document.format in ("elf", "pe", "mach-o", "mach-o fat"):
            if budget["executables"] < 60:
                budget["executables"] += 1
                yield from _executable(document, name, archive, draw)
        elif name.endswith(".jar") and budget["jar"] < 6:
            budget["jar"] += 1
            yield from _whole("zip", name, bytes(document.data))
            yield from _classes(bytes(document.data), name)
        elif name.endswith(".gz") and budget["gz"] < 200:
            budget["gz"] += 1
            yield from _whole("gzip", name, bytes(document.data))
            try:
                inner = gzip.decompress(bytes(document.data))
            except (OSError, EOFError):
                continue
            if label := label_of(name.removesuffix(".gz"), inner):
                yield from _whole(label, name.removesuffix(".gz"), inner)
        elif (label := label_of(name, bytes(document.data[: 1 << 20]))) and budget[label] < 400:
            budget[label] += 1
            yield from _whole(label, name, bytes(document.data))


def label_of(name: str, data: bytes) -> str | None:
    """The label of a file by its name, or by its first line, if its content does not contradict."""
    base = name.rpartition("/")[2]
    label = NAMES.get(base.partition(".")[0]) if base.partition(".")[0] in NAMES else None
    label = label or NAMES.get(base) or LABEL_OF.get(base.rpartition(".")[2].lower() if "." in base else "")
    if label is None and (match := re.match(rb"#!\s*(?:\S*/)?(?:env\s+)?([a-z]+)", data[:80])):
        label = SHEBANGS.get(match[1].decode())
    if label is None:
        return None
    if label in MAGIC and not data.startswith(MAGIC[label]):
        return None
    if (label == "webp" and data[8:12] != b"WEBP") or (label == "wav" and data[8:12] != b"WAVE"):
        return None
    if label in TEXTS:
        if b"\0" in data or (label in SIGNS and not re.search(SIGNS[label], data[: 1 << 16])):
            return None
        if label in ("c", "text", "css", "json") and data.lstrip()[:1] == b"<":
            return None
    return label


def _whole(label: str, name: str, data: bytes) -> Iterator[Piece]:
    if len(data) <= PIECE:
        yield Piece(label, name, data, True)
    elif label not in ("gzip", "zip"):
        start = len(data) // 2 - PIECE // 2
        yield Piece(label, name, data[start : start + PIECE], False)


def _executable(document: Document, name: str, archive: Archive, draw: random.Random) -> Iterator[Piece]:
    """The whole file when it is short, and pieces of its code, its symbol tables and its strings."""
    info = document.info
    if document.size <= 2 * PIECE:
        yield Piece(document.format.partition(" ")[0], name, bytes(document.data), True)
    if info.problem or document.format == "mach-o fat":
        return
    for section in info.sections:
        data = document.data[section.offset : section.offset + section.size]
        if section.kind == "code" and section.size >= 4096 and section.name in (".text", "__text", "__TEXT,__text"):
            label = CODE_OF.get(info.architecture or "")
            if info.architecture == "arm":
                label = {"armhf": "thumb code", "armel": "arm code"}.get(archive.architecture)
            if label:
                start = draw.randrange(max(1, len(data) - PIECE))
                yield Piece(label, f"{name}:{section.name}", bytes(data[start : start + PIECE]), False)
        elif section.kind == "symbols" and section.size >= 2048:
            label = "strings" if section.name in (".strtab", ".dynstr") else "symbol tables"
            yield Piece(label, f"{name}:{section.name}", bytes(data[: PIECE // 4]), False)
        elif section.kind in ("read-only data", "data") and section.size >= 2048:
            start = draw.randrange(max(1, len(data) - PIECE))
            yield from _program_data(bytes(data[start : start + PIECE]), f"{name}:{section.name}")


def _program_data(data: bytes, name: str) -> Iterator[Piece]:
    """Runs of kilobytes: strings, where nearly all bytes are printable or end a string, and other data."""
    plain = bytes(range(32, 127)) + b"\t\n\0"
    blocks = [data[at : at + 1024] for at in range(0, len(data) - 1023, 1024)]
    kinds = [
        "strings" if len(block.translate(None, plain)) < 20 and 8 < block.count(0) < 300 else "program data"
        for block in blocks
    ]
    for kind, run in groupby(range(len(blocks)), key=lambda number: kinds[number]):
        numbers = list(run)
        if len(numbers) >= 2:
            yield Piece(kind, name, b"".join(blocks[number] for number in numbers), False)


def _classes(data: bytes, name: str) -> Iterator[Piece]:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as jar:
            members = [member for member in jar.infolist() if member.filename.endswith(".class")]
            for member in members[:: max(1, len(members) // 20)]:
                yield from _whole("java class", f"{name}!{member.filename}", jar.read(member))
    except (zipfile.BadZipFile, RuntimeError, NotImplementedError):
        return


def _made(pieces: list[Piece], archive: Archive, draw: random.Random) -> list[Piece]:
    """Files that the machine makes of `pieces`: compressed, encoded, compiled, converted."""
    texts = [piece for piece in pieces if piece.label in TEXTS and len(piece.data) >= 2048]
    others = [piece for piece in pieces if piece.label.endswith(" code") or piece.label in ("bitmap", "wav")]
    some = draw.sample(texts, min(8, len(texts))) + draw.sample(others, min(3, len(others)))
    made = []
    for piece in some:
        level = draw.randint(1, 9)
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED, compresslevel=level) as container:
            container.writestr(piece.name, piece.data)
        forms = {
            "gzip": gzip.compress(piece.data, level, mtime=draw.randrange(1 << 30)),
            "bzip2": bz2.compress(piece.data, level),
            "xz": lzma.compress(piece.data, preset=draw.randint(0, 6)),
            "zstd": zstandard.ZstdCompressor(level=draw.randint(1, 19)).compress(piece.data),
            "zip": stream.getvalue(),
        }
        made += [Piece(label, f"{piece.name}.{label}", data, True) for label, data in forms.items()]
    for piece in some[:4]:
        data = piece.data[: PIECE // 2]
        lines = base64.encodebytes(draw.choice(made).data[: PIECE // 2])
        made.append(Piece("base64", f"{piece.name}.b64", lines, True))
        made.append(Piece("random data", f"{piece.name}.random", draw.randbytes(len(data)), True))
        if piece.label in TEXTS:
            codec = draw.choice(["utf-16-le", "utf-16-be"])
            text = ("\ufeff" + data.decode("utf-8", "replace")).encode(codec, "replace")
            made.append(Piece("utf-16 text", f"{piece.name}.utf16", text, True))
    if some:
        stream = io.BytesIO()
        with tarfile.open(fileobj=stream, mode="w") as container:
            for piece in some:
                entry = tarfile.TarInfo(piece.name[-90:])
                entry.size = len(piece.data)
                container.addfile(entry, io.BytesIO(piece.data))
        made += list(_whole("tar", f"{archive.source}.tar", stream.getvalue()))
    for piece in [piece for piece in pieces if piece.label == "python"][:12]:
        try:
            code = compile(piece.data, piece.name, "exec", dont_inherit=True)
        except (SyntaxError, ValueError):
            continue
        head = importlib.util.MAGIC_NUMBER + bytes(4) + draw.randbytes(4) + len(piece.data).to_bytes(4, "little")
        made.append(Piece("python bytecode", f"{piece.name}c", head + marshal.dumps(code), True))
    return made + _images(pieces, draw)


def _images(pieces: list[Piece], draw: random.Random) -> list[Piece]:
    from PIL import Image

    made = []
    pictures = [piece for piece in pieces if piece.label in ("png", "jpeg", "gif") and piece.whole]
    for piece in draw.sample(pictures, min(10, len(pictures))):
        try:
            with Image.open(io.BytesIO(piece.data)) as image:
                picture = image.convert("RGB")
        except (OSError, ValueError, SyntaxError):
            continue
        if piece.label != "jpeg":
            picture = picture.resize((max(96, picture.width), max(96, picture.height)))
        forms = {
            "bitmap": ("BMP", {}),
            "tiff": ("TIFF", {}),
            "webp": ("WEBP", {"quality": draw.randint(50, 95)}),
            "jpeg": ("JPEG", {"quality": draw.randint(40, 95)}),
            "gif": ("GIF", {}),
            "ico": ("ICO", {}),
            "png": ("PNG", {}),
        }
        for label, (format_, saving) in forms.items():
            if label == piece.label:
                continue
            stream = io.BytesIO()
            try:
                picture.save(stream, format_, **saving)
            except (OSError, ValueError):
                continue
            made += list(_whole(label, f"{piece.name}.{label}", stream.getvalue()))
    return made


# Which part it is for


def parts_of(sources: dict[str, set[str]]) -> dict[str, str]:
    """The part of each source package, given the packages of every label.

    Rare labels choose first: each takes packages, in the order of a hash of their names, until its shares of test and
    validation are filled. So every label with three packages is in every part.
    """
    parts: dict[str, str] = {}
    for _, of_label in sorted(sources.items(), key=lambda entry: (len(entry[1]), entry[0])):
        ordered = sorted(of_label, key=lambda source: hashlib.sha256(source.encode()).digest())
        for part, share in SHARES.items():
            wanted = max(1, round(share * len(ordered) / 100)) if len(ordered) >= len(SHARES) + 1 else 0
            taken = sum(parts.get(source) == part for source in ordered)
            for source in [source for source in ordered if source not in parts][: max(0, wanted - taken)]:
                parts[source] = part
        if len(ordered) < len(SHARES) + 1:
            parts |= {source: "train" for source in ordered if source not in parts}
    return parts


def write_manifest(archives: list[Archive], folder: Path) -> None:
    """One line a piece, each piece once; those of the test part win, so that training never saw them."""
    rows = {
        archive: json.loads((folder / "pieces" / f"{archive.sha256[:16]}.json").read_text()) for archive in archives
    }
    sources: dict[str, set[str]] = defaultdict(set)
    for archive, pieces in rows.items():
        for row in pieces:
            sources[row["label"]].add(archive.source)
    parts = parts_of(sources)
    order = {"test": 0, "validation": 1, "train": 2}
    seen: set[str] = set()
    totals: dict[str, Counter[str]] = defaultdict(Counter)
    ranked = sorted((order[parts.get(archive.source, "train")], archive.url, archive) for archive in archives)
    with atomic_write(folder / "manifest.jsonl", "w") as file:
        for _, _, archive in ranked:
            part = parts.get(archive.source, "train")
            for row in rows[archive]:
                if row["sha256"] not in seen:
                    seen.add(row["sha256"])
                    totals[row["label"]][part] += 1
                    row |= {"file": f"pieces/{archive.sha256[:16]}.bin", "source": archive.source, "part": part}
                    file.write(json.dumps(row) + "\n")
    for label in sorted(totals):
        print(f"{label:<20}" + "".join(f"{part} {totals[label][part]:>6}  " for part in order), file=sys.stderr)


if __name__ == "__main__":
    try:
        main()
    except (ByteloomError, OSError) as error:
        sys.exit(f"error: {error}")
