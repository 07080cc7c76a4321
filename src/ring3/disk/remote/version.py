"""What tells one state of a file on a server from another."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Version:
    size_bytes: int
    etag: str
    modified: str

    def is_of(self, other: "Version") -> bool:
        pairs = ((self.etag, other.etag), (self.modified, other.modified))
        both = [(mine, theirs) for mine, theirs in pairs if mine and theirs]
        return self.size_bytes == other.size_bytes and bool(both) and all(a == b for a, b in both)
