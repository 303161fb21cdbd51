"""What all pictures share: colours, and text as it is."""

from __future__ import annotations

import matplotlib

INK, FAINT = "#222222", "#6b6b6b"
STAGES = {"victim": "#D55E00", "purified": "#0072B2"}  # Okabe and Ito: safe for the colour-blind
matplotlib.rcParams["text.parse_math"] = False  # a class may be called $5_$10
