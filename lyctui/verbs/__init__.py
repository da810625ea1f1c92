"""What each verb of the command line does; `lyctui.cli` declares them."""
