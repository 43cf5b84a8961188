"""One self-contained HTML page per run."""

from tagmask.report.page import ImageRow, Report, write_report

__all__ = ["ImageRow", "Report", "write_report"]
