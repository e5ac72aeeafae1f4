"""The labels of `byteloom identify`: what they are called, which group they belong to, and what lies inside a file."""

from __future__ import annotations

GROUPS: dict[str, tuple[str, ...]] = {
    "machine code": (
        *("x86-64 code", "x86 code", "arm64 code", "arm code", "thumb code"),
        *("riscv64 code", "ppc64le code", "s390x code", "mips64el code"),
    ),
    "bytecode": ("java class", "python bytecode"),
    "program data": ("symbol tables", "strings", "program data", "zeros"),
    "source": (
        *("c", "go", "haskell", "java", "javascript", "lisp", "lua", "ocaml", "perl", "php", "python", "ruby", "rust"),
        *("shell", "tcl", "typescript", "cmake", "makefile", "sql"),
    ),
    "text": (
        *("text", "markdown", "rst", "tex", "roff", "html", "xml", "svg", "css", "json", "yaml", "ini", "csv", "po"),
        *("base64", "utf-16 text"),
    ),
    "image": ("png", "jpeg", "gif", "webp", "bitmap", "tiff", "ico", "xpm"),
    "audio": ("wav", "ogg", "mp3", "flac"),
    "document": ("pdf", "postscript"),
    "font": ("truetype", "opentype", "woff", "type1 font"),
    "database": ("sqlite", "gettext catalogue"),
    "compressed": ("deflate data", "bzip2", "xz", "zstd", "gzip", "zip", "random data"),
    "archive": ("tar", "ar"),
    "executable": ("elf", "pe", "mach-o", "wasm", "dex"),
    "empty": ("empty",),
}
"""All labels, by group. Those of "executable", and some others, are for whole files only."""

GROUP_OF = {label: group for group, labels in GROUPS.items() for label in labels}

TEXTUAL = frozenset((*GROUPS["source"], *GROUPS["text"], "xpm", "postscript", "pdf"))
"""What valid UTF-8 text can be."""

WITHIN = {
    **dict.fromkeys(("png", "gzip", "zip", "woff"), "deflate data"),
    **dict.fromkeys(("tiff", "ico"), "bitmap"),
}
"""What a fragment from the middle of a file is called where it tells less than the beginning does."""

CODE_OF = {
    "x86-64": "x86-64 code",
    "x86": "x86 code",
    "aarch64": "arm64 code",
    "riscv64": "riscv64 code",
    "powerpc64": "ppc64le code",
    "s390x": "s390x code",
    "mips64": "mips64el code",
}
"""The label of machine code by the architecture that byteloom.corpus names; that of arm has two instruction sets."""
