"""The laboratory: a page on this machine on which one turns knobs and watches ranks rise while a flow runs."""
