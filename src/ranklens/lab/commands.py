"""The command `ranklens lab`. torch is imported inside it, so that the help of other commands appears at once."""

import webbrowser
from typing import Annotated

import typer


def lab(
    *,
    port: Annotated[
        int | None, typer.Option("--port", min=0, max=65535, help="Port on this machine; 0 takes a free one.")
    ] = None,
    show: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
) -> None:
    """Serve the laboratory, a page with knobs and pictures of runs, on this machine until Ctrl-C.

    Raises:
        ValueError: if the port is in use.
    """
    from ranklens.lab.server import PORT, Laboratory, serve

    wanted = PORT if port is None else port
    try:
        server = Laboratory(wanted)
    except OSError as error:
        raise ValueError(f"port {wanted} cannot be used ({error.strerror}); take another, or --port 0") from error
    typer.echo(f"the laboratory is at {server.address}\nIt answers this machine only. Ctrl-C ends it.")
    if show and not webbrowser.open(server.address):
        typer.echo("no browser was found; open that address yourself", err=True)
    serve(server)
