"""Serving the page: on this computer alone by default, from a temporary folder, silently."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING

from ..errors import ECGTwinError

if TYPE_CHECKING:
    from .model import Explorer

HERE = Path(__file__).parent


def serve(explorer: Explorer, host: str, port: int) -> None:
    """Serve the page until interrupted; uploads and downloads are gone afterwards.

    Raises ECGTwinError where Gradio is not installed or the port is taken.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    with tempfile.TemporaryDirectory(prefix="ecgtwin-explorer-") as folder:
        # Gradio reads these when it is imported.
        os.environ |= {"GRADIO_TEMP_DIR": folder, "GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_DISABLE_TELEMETRY": "1"}
        tempfile.tempdir = folder
        try:
            import gradio as gr
        except ImportError:
            raise ECGTwinError("the explorer needs Gradio: pip install 'ecgtwin-fast[demo]'") from None
        from .page import build
        from .uploads import LARGEST_MEGABYTES

        page = build(explorer)
        page.queue(default_concurrency_limit=1, max_size=16, api_open=False)
        try:
            page.launch(
                server_name=host,
                server_port=port,
                prevent_thread_lock=True,
                quiet=True,
                share=False,
                ssr_mode=False,
                run_history=False,
                enable_monitoring=False,
                mcp_server=False,
                footer_links=[],
                max_file_size=LARGEST_MEGABYTES * 1_000_000,
                state_session_capacity=64,
                theme=gr.themes.Default(primary_hue="blue", font=["system-ui", "sans-serif"], font_mono=["monospace"]),
                css_paths=HERE / "page.css",
                head=f"<script>{(HERE / 'page.js').read_text(encoding='utf-8')}</script>",
            )
        except OSError:
            reason = "it is taken, or the address is none of this computer's"
            raise ECGTwinError(f"port {port} of {host} cannot be served on: {reason}; try another --port") from None
        print(f"explorer   http://{host}:{port} (Ctrl-C ends it)", flush=True)
        try:
            Event().wait()
        finally:
            page.close(verbose=False)
