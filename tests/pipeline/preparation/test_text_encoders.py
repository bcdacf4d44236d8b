"""Text encoders: a name that is known in one place is known in all."""

from typing import get_args

from pipeline.preparation.config import PrepareConfig
from ratgan.text.loading import ENCODERS


def test_preparation_offers_every_text_encoder_there_is():
    offered = set(get_args(PrepareConfig.model_fields["encoder"].annotation))

    assert offered == set(ENCODERS)
