"""How the page looks: its theme and its style sheet. Nothing is fetched from elsewhere."""

from __future__ import annotations

import gradio as gr

STYLE = """
.gradio-container { width: 100% !important; max-width: 60rem !important; margin: 0 auto !important; }
.gradio-container .main { padding: 1rem 1.5rem !important; }
.gradio-container main { padding: 0 !important; }
.gradio-container .column { gap: .75rem; }
.gradio-container .html-container { padding: 0 !important; }
#top { align-items: center; flex-wrap: nowrap; gap: .75rem; }
#title { flex: 1 1 auto; min-width: 0; }
#title h1 { margin: 0; font-size: 1.25rem; font-weight: 650; overflow-wrap: anywhere; }
#title p { margin: 0; font-size: .85rem; color: var(--body-text-color-subdued); overflow-wrap: anywhere; }
#sign-out { flex: 0 0 auto; width: auto; min-width: 0; white-space: nowrap; font-size: .9rem; }
#sign-out a { color: var(--body-text-color-subdued); text-decoration: none; }
#sign-out a:hover { text-decoration: underline; }
#chat { min-height: 14rem; border: 1px solid var(--border-color-primary); border-radius: var(--radius-lg); }
#chat .placeholder { padding: 1.5rem; text-align: center; }
.pace { min-height: 1.4rem; font-size: .85rem; color: var(--body-text-color-subdued);
        font-variant-numeric: tabular-nums; }
.gradio-container .side { gap: .5rem; }
.gradio-container .side textarea { -webkit-text-fill-color: currentcolor; opacity: 1; }
footer { display: none !important; }
@media (max-width: 600px) {
  .gradio-container .main { padding: .75rem !important; }
}
"""


def theme() -> gr.themes.Base:
    """Fonts are those of the reader's own machine; what is less important is still dark enough to read."""
    return gr.themes.Default(
        primary_hue="blue",
        neutral_hue="slate",
        radius_size="lg",
        font=["system-ui", "sans-serif"],
        font_mono=["ui-monospace", "monospace"],
    ).set(body_text_color_subdued="*neutral_500")
