"""Where the studio's workers find their world: environment variables, as in any deployment."""

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Settings:
    """All that the handlers need to know of the outside."""

    out: Path
    smtp_host: str
    smtp_port: int
    gateway: str

    @classmethod
    def from_environment(cls) -> "Settings":
        """Read STUDIO_OUT, STUDIO_SMTP (host:port) and STUDIO_GATEWAY (a URL)."""
        host, _, port = os.environ.get("STUDIO_SMTP", "127.0.0.1:1025").rpartition(":")
        return cls(
            out=Path(os.environ.get("STUDIO_OUT", "out")),
            smtp_host=host,
            smtp_port=int(port),
            gateway=os.environ.get("STUDIO_GATEWAY", "http://127.0.0.1:8090"),
        )
