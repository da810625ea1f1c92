"""kohya's configurations: read into a recipe with a report; a recipe as its command. No torch."""
