"""Adds the page of all verbs to the site: it is the help that `byteloom --help` prints, so it cannot be stale."""

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from typer.cli import get_docs_for_click
from typer.main import get_command

from byteloom.cli.main import app


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Called by mkdocs when it has found the pages."""
    command = get_command(app)
    context = command.make_context("byteloom", [], resilient_parsing=True)
    text = get_docs_for_click(obj=command, ctx=context, name="byteloom", title="Command line")
    files.append(File.generated(config, "cli.md", content=text))
    return files
