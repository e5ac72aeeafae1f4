"""`byteloom`: the entry point that gathers the verbs and turns errors into one sentence."""

from __future__ import annotations

import os
import signal
import sys
import warnings
from typing import Annotated, Any, NoReturn

import typer
from rich.markup import escape

from byteloom import __version__
from byteloom.cli.answer import answer
from byteloom.cli.bench import bench
from byteloom.cli.compare_models import compare_models
from byteloom.cli.complete import complete
from byteloom.cli.console import err, interrupted
from byteloom.cli.corpus import corpus_app
from byteloom.cli.demo import demo
from byteloom.cli.embed import embed
from byteloom.cli.evaluate import evaluate_app
from byteloom.cli.fit import fit
from byteloom.cli.generate import generate
from byteloom.cli.identify import identify
from byteloom.cli.lexicon import lexicon_app
from byteloom.cli.methods import methods
from byteloom.cli.ngrams import ngrams_app
from byteloom.cli.report import report
from byteloom.cli.score import score
from byteloom.cli.survivors import survivors
from byteloom.cli.tokenizer import tokenizer_app
from byteloom.errors import ByteloomError, MissingExtraError

INTERRUPTED = 130  # exit status

app = typer.Typer(
    name="byteloom",
    help="Any bytes into compact token sequences; sequence models trained on them and run fast.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"byteloom {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


app.add_typer(corpus_app, name="corpus")
app.add_typer(tokenizer_app, name="tokenizer")
app.add_typer(lexicon_app, name="lexicon")
app.add_typer(evaluate_app, name="evaluate")
app.add_typer(ngrams_app, name="ngrams")
app.command(name="answer")(answer)
app.command(name="bench")(bench)
app.command(name="compare-models")(compare_models)
app.command(name="complete")(complete)
app.command(name="score")(score)
app.command(name="demo")(demo)
app.command(name="embed")(embed)
app.command(name="fit")(fit)
app.command(name="generate")(generate)
app.command(name="identify")(identify)
app.command(name="methods")(methods)
app.command(name="report")(report)
app.command(name="survivors")(survivors)


_EXTRA_OF = {
    "torch": "models,tasks",
    "transformers": "models,tasks",
    "accelerate": "models,tasks",
    "safetensors": "models,tasks",
    "capstone": "tasks",
    "jinja2": "tasks",
    "tiktoken": "bench",
    "sentencepiece": "bench",
}


def _fail(error: ByteloomError) -> NoReturn:
    err.print(f"[bold red]error:[/] {escape(str(error))}", soft_wrap=True)
    sys.exit(2)


def _note(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
    """A warning for the user as a sentence; where in the code it was raised tells them nothing."""
    err.print(f"note: {message}", markup=False, soft_wrap=True)


def _interrupt(*_: Any) -> NoReturn:
    interrupted.set()
    raise KeyboardInterrupt


def _unraisable(event: Any) -> None:
    """Python cannot let Ctrl-C out of a destructor; the next report of progress raises it again."""
    if event.exc_type is not KeyboardInterrupt:
        sys.__unraisablehook__(event)


def main() -> None:
    """Run the command line. Exit status: 0 done, 2 the user must change something, 130 interrupted."""
    # OpenMP reads this when torch loads. Threads that wait then sleep instead of spinning: beside other work,
    # training on a CPU is several times as fast.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    warnings.showwarning = _note
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # not where the shell has it ignored
        signal.signal(signal.SIGINT, _interrupt)
        sys.unraisablehook = _unraisable
    try:
        app()
    except ByteloomError as error:
        _fail(error)
    except ModuleNotFoundError as error:  # the light install lacks the packages of an extra
        package = (error.name or "").partition(".")[0]
        if package not in _EXTRA_OF:
            raise
        _fail(MissingExtraError(package, _EXTRA_OF[package]))
    except SystemExit as end:
        if end.code == INTERRUPTED:  # typer has turned a KeyboardInterrupt into this
            err.print("interrupted; finished parts are kept, run the same command again to go on", soft_wrap=True)
        raise
    except BrokenPipeError:  # the reader, such as `head`, has gone
        sys.stderr.close()
        sys.exit(0)
