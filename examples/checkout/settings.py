"""Where the shop's neighbours are; the demo sets these for its workers."""

from __future__ import annotations

import os
from pathlib import Path

CARD_COMPANY_URL = os.environ.get("SHOP_CARD_COMPANY_URL", "http://127.0.0.1:8081")
SMTP_HOST = os.environ.get("SHOP_SMTP_HOST", "127.0.0.1")
SMTP_PORT = int(os.environ.get("SHOP_SMTP_PORT", "8025"))
DATABASE = Path(os.environ.get("SHOP_DATABASE", "shop.db"))
