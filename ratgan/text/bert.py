"""BERT's encoder from its tensors alone: importing transformers takes longer than a picture.

Dimensions in this file:
    N texts, L tokens of the longest, D size of a state, H heads.
"""

from collections.abc import Mapping

from torch import Tensor
from torch.nn import functional


def token_states(
    weights: Mapping[str, Tensor],
    tokens: Tensor,
    mask: Tensor,
    *,
    layers: int,
    heads: int,
    epsilon: float = 1e-12,
) -> Tensor:
    """Return the states of the last layer, [N, L, D] (https://arxiv.org/abs/1810.04805).

    The operations and their order are those of `BertModel` in transformers, so that prepared
    datasets and saved models keep their vectors.

    Args:
        weights: Tensors by the names that `BertModel` gives them.
        tokens: Numbers of the tokens of single texts, [N, L].
        mask: True where there is a token, [N, L].
        layers: Layers to run.
        heads: H of each layer.
        epsilon: Of the normalisations; BERT's own by default.
    """

    def linear(x: Tensor, name: str) -> Tensor:
        return functional.linear(x, weights[f"{name}.weight"], weights[f"{name}.bias"])

    def norm(x: Tensor, name: str) -> Tensor:
        weight, bias = weights[f"{name}.weight"], weights[f"{name}.bias"]
        return functional.layer_norm(x, weight.shape, weight, bias, epsilon)

    words, kinds, positions = (
        weights[f"embeddings.{name}_embeddings.weight"]
        for name in ("word", "token_type", "position")
    )
    length = tokens.shape[1]
    x = words[tokens] + kinds[0] + positions[:length]
    x = norm(x, "embeddings.LayerNorm")  # [N, L, D]
    # Without padding there is no mask, which lets torch choose another kernel.
    seen = None if mask.all() else mask[:, None, None, :].expand(-1, 1, length, -1)
    for number in range(layers):
        layer = f"encoder.layer.{number}"
        query, key, value = (
            linear(x, f"{layer}.attention.self.{name}").unflatten(-1, (heads, -1)).transpose(1, 2)
            for name in ("query", "key", "value")
        )  # [N, H, L, D / H]
        found = functional.scaled_dot_product_attention(query, key, value, attn_mask=seen)
        found = linear(found.transpose(1, 2).flatten(2), f"{layer}.attention.output.dense")
        x = norm(found + x, f"{layer}.attention.output.LayerNorm")
        wide = functional.gelu(linear(x, f"{layer}.intermediate.dense"))
        x = norm(linear(wide, f"{layer}.output.dense") + x, f"{layer}.output.LayerNorm")
    return x
