"""`byteloom tokenizer`: train, use, look at, compare and export tokenizers; one file a verb."""

import typer

from byteloom.cli.tokenizer.compare import compare
from byteloom.cli.tokenizer.encode import decode, encode
from byteloom.cli.tokenizer.export import export
from byteloom.cli.tokenizer.info import info
from byteloom.cli.tokenizer.inspect import inspect
from byteloom.cli.tokenizer.train import train

tokenizer_app = typer.Typer(no_args_is_help=True, help="Train, use, look at, compare and export tokenizers.")
for verb in (train, encode, decode, inspect, info, compare, export):
    tokenizer_app.command()(verb)
