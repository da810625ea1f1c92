"""What each verb of the command line does; `lyctui.cli` declares them, a file for each."""
