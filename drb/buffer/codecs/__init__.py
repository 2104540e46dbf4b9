"""Codecs: how a field of a record is stored in fewer bytes than its values take. A codec is one file here."""

from drb.buffer.codecs.base import Codec, codec_from_json, codec_to_json
from drb.buffer.codecs.bits import Bits

__all__ = ["Bits", "Codec", "codec_from_json", "codec_to_json"]
