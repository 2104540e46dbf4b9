"""Codecs: how a field of a record is stored in fewer bytes than its values take. A codec is one file here."""

from drb.buffer.codecs.base import CODECS, Codec, codec_from_json
from drb.buffer.codecs.bits import Bits

__all__ = ["CODECS", "Bits", "Codec", "codec_from_json"]
