"""Codecs: how a field of a record is stored in fewer bytes than its values take. A codec is one file here."""

from drb.buffer.codecs.base import CODECS, Codec, codec_from_json
from drb.buffer.codecs.bits import Bits
from drb.buffer.codecs.compressed import quality_shares
from drb.buffer.codecs.deflate import Deflate
from drb.buffer.codecs.jpeg import Jpeg
from drb.buffer.codecs.png import Png

__all__ = ["CODECS", "Bits", "Codec", "Deflate", "Jpeg", "Png", "codec_from_json", "quality_shares"]
