"""More views of a stored run, where people look rather than read: `views=true`."""

from backdoor_lab.reports.views.views import VIEWS, draw_views

__all__ = ["VIEWS", "draw_views"]
