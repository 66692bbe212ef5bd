"""Low-rank adapters over a model's linear layers, any mix of them in one forward.

PEFT computes the adapters of a mixed batch one after another, each with its own gathers. Here the matrices of all
adapters lie behind one another, so that a forward computes those it needs in two products, whatever the mix:

    y = W x + sum over adapters of  c[row, adapter] * B (A x)        c is 1 for the row's own adapter, else 0

A single adapter can be merged into W; then c is 0 for its own rows, which cost nothing, and -1 for the base model's.
Or its A can lie below W, so that W x and A x are one product. Knows tensors and modules, and no folders.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from packed import PackedLinear
from rows import BASE
from torch import nn


class Selection:
    """Which adapter each row of the forward under way uses; one object, read by every layer of a model."""

    def __init__(self, adapters: Sequence[str], *, merged: bool, device: torch.device) -> None:
        if merged and len(adapters) != 1:
            raise ValueError(f"one adapter can be merged, not {len(adapters)}")
        self._adapters, self._device = tuple(adapters), device
        self.merged = merged
        self.scale = -1.0 if merged else 1.0
        """What an adapter counts where it is computed: -1 takes a merged one out again."""
        self.rows: tuple[str, ...] = ()
        self._numbers = {name: number for number, name in enumerate(self._adapters)}
        self._kept: dict[tuple[Any, ...], tuple[torch.Tensor | None, torch.Tensor]] = {}
        self.everywhere: int | None = None
        """The one adapter (its number) that every row needs computed; None when there is none, or they differ."""
        self.active: tuple[int, ...] = ()
        """Numbers of the adapters that some row needs computed."""
        self.choose((BASE,))

    def choose(self, rows: tuple[str, ...]) -> None:
        """Each row's adapter by name, or one name for however many rows there are. Raises KeyError for another name."""
        if rows == self.rows:
            return
        names = set(rows)
        computed = {name: self._number(name) for name in names}
        self.rows, self._kept = rows, {}
        self.active = tuple(sorted({number for number in computed.values() if number is not None}))
        self.everywhere = self.active[0] if len(self.active) == 1 and None not in computed.values() else None
        # A row's place in the table of mix(): the active adapters in their order, then none.
        places = {name: self.active.index(n) if n is not None else len(self.active) for name, n in computed.items()}
        self._places = torch.tensor([places[name] for name in rows]) if len(names) > 1 else None

    def _number(self, name: str) -> int | None:
        """The adapter that has to be computed for a row of this name."""
        if self.merged:
            # The weights hold the adapter: only rows of the base model need something computed.
            return 0 if name == BASE else None
        return None if name == BASE else self._numbers[name]

    def mix(self, ranks: tuple[int, ...], dtype: torch.dtype) -> tuple[torch.Tensor | None, torch.Tensor]:
        """For a layer whose adapters have these ranks: which of all ranks are needed (None: every one), and what each
        of them counts in each row, [rows, 1, needed ranks]. Computed once a forward for all layers alike."""
        found = self._kept.get((ranks, dtype))
        if found is None:
            owners = [number for number in self.active for _ in range(ranks[number])]
            table = [[self.scale if owner == number else 0.0 for owner in owners] for number in (*self.active, None)]
            assert self._places is not None, "rows that are all alike are not mixed"
            weights = torch.tensor(table, dtype=dtype)[self._places][:, None, :].to(self._device)
            columns = None
            if len(owners) < sum(ranks):
                starts = [sum(ranks[:number]) for number in range(len(ranks))]
                needed = [starts[number] + at for number in self.active for at in range(ranks[number])]
                columns = torch.tensor(needed, device=self._device)
            found = self._kept[(ranks, dtype)] = (columns, weights)
        return found


class LoraLinear(nn.Module):
    """A linear layer (or one that computes like one, quantized or not) with every adapter that reaches it."""

    def __init__(
        self, base: nn.Module, down: Sequence[torch.Tensor | None], up: Sequence[torch.Tensor | None], choice: Selection
    ) -> None:
        """`down` and `up` hold each adapter's A [rank, in] and B [out, rank], its scale already in B; None: the adapter
        does not reach this layer."""
        super().__init__()
        self.base, self.choice = base, choice
        self.ranks = tuple(0 if matrix is None else matrix.shape[0] for matrix in down)
        starts = [sum(self.ranks[:number]) for number in range(len(self.ranks))]
        self._places = tuple(slice(start, start + rank) for start, rank in zip(starts, self.ranks, strict=True))
        kept_down = [matrix for matrix in down if matrix is not None]
        kept_up = [matrix.T for matrix in up if matrix is not None]
        self.down: torch.Tensor
        self.up: torch.Tensor
        self.register_buffer("down", torch.cat(kept_down).contiguous(), persistent=False)  # [all ranks, in]
        self.register_buffer("up", torch.cat(kept_up).contiguous(), persistent=False)  # [all ranks, out]

    @torch.no_grad()
    def merge(self) -> None:
        """Add the only adapter to the weights, computed in float32."""
        weight: torch.Tensor = self.base.weight  # type: ignore[assignment]  # of a module: a tensor or a module
        weight.copy_(weight.float() + self.up.float().T @ self.down.float())

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.base(inputs)
        choice = self.choice
        if not any(self.ranks[number] for number in choice.active):
            return result
        down, up = self.down, self.up
        if choice.everywhere is not None:
            place = self._places[choice.everywhere]
            hidden = nn.functional.linear(inputs.to(down.dtype), down[place])
            return _add(result, hidden, up[place], choice.scale)
        columns, counts = choice.mix(self.ranks, down.dtype)
        _check_rows(inputs, counts)
        if columns is not None:
            down, up = down.index_select(0, columns), up.index_select(0, columns)
        return _add(result, nn.functional.linear(inputs.to(down.dtype), down).mul_(counts), up, 1.0)


def _check_rows(inputs: torch.Tensor, counts: torch.Tensor) -> None:
    if inputs.dim() != 3 or inputs.shape[0] != counts.shape[0]:
        raise ValueError(f"a layer gets {list(inputs.shape)}, which are not {counts.shape[0]} rows of tokens")


def _add(result: torch.Tensor, hidden: torch.Tensor, up: torch.Tensor, scale: float) -> torch.Tensor:
    """result + scale * hidden @ up, written over `result` where that is possible."""
    flat = result.reshape(-1, result.shape[-1])
    if flat.dtype != up.dtype or flat.requires_grad:
        added = hidden.reshape(-1, hidden.shape[-1]) @ up
        return (flat + scale * added.to(flat.dtype)).view(result.shape)
    return flat.addmm_(hidden.reshape(-1, hidden.shape[-1]), up, alpha=scale).view(result.shape)


class WideLoraLinear(nn.Module):
    """A linear layer with its only adapter, whose A [rank, in] lies below W [out, in]: W x and A x are one product.

    A token of a lone row waits for the weights to be read, and for each product to begin: one less is noticed.
    """

    def __init__(self, layer: LoraLinear, base: nn.Linear) -> None:
        """Of a layer that has one adapter which is not merged, and its own linear layer."""
        super().__init__()
        self.choice, (self.rank,), self.out_features = layer.choice, layer.ranks, base.out_features
        bias = None if base.bias is None else torch.cat((base.bias, base.bias.new_zeros(self.rank)))
        # Children that are plain linear layers can be packed like any other.
        self.base = _linear(torch.cat((base.weight, layer.down)), bias)
        self.up = _linear(layer.up.T.contiguous(), None)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        wide: torch.Tensor = self.base(inputs)
        result, hidden = wide[..., : self.out_features], wide[..., self.out_features :]
        choice = self.choice
        if not choice.active:
            return result.contiguous()
        if choice.everywhere is None:
            _, counts = choice.mix((self.rank,), hidden.dtype)
            _check_rows(inputs, counts)
            hidden = hidden * counts
        if isinstance(self.up, PackedLinear):
            return self.up.added(hidden, result)
        flat = torch.addmm(result.flatten(0, -2), hidden.flatten(0, -2), self.up.weight.T)
        return flat.view(result.shape)


def _linear(weight: torch.Tensor, bias: torch.Tensor | None) -> nn.Linear:
    made = nn.Linear(weight.shape[1], weight.shape[0], bias is not None, device="meta")
    made.weight = nn.Parameter(weight.detach(), requires_grad=False)
    if bias is not None:
        made.bias = nn.Parameter(bias.detach(), requires_grad=False)
    return made


def widen(module: nn.Module) -> None:
    """Put a wide layer in the place of each with a lone adapter that is computed beside the weights."""
    for path in [path for path, layer in module.named_modules() if isinstance(layer, LoraLinear)]:
        layer: LoraLinear = module.get_submodule(path)  # type: ignore[assignment]  # only paths of such layers
        base = layer.base
        if len(layer.ranks) == 1 and not layer.choice.merged and type(base) is nn.Linear:
            replace_modules(module, {path: WideLoraLinear(layer, base)})


class AdaptedModel:
    """A transformers model whose linear layers hold adapters; called like a PEFT model."""

    def __init__(self, module: Any, choice: Selection) -> None:
        self.module, self.choice = module, choice
        self._chosen = BASE

    def __call__(self, *arguments: Any, adapter_names: Sequence[str] | None = None, **named: Any) -> Any:
        """The model's forward; `adapter_names` gives each row's adapter, else all use the one that is set."""
        self.choice.choose((self._chosen,) if adapter_names is None else tuple(adapter_names))
        return self.module(*arguments, **named)

    def set_adapter(self, name: str) -> None:
        """From now on, every row uses this adapter."""
        self._chosen = name
        self.choice.choose((name,))

    @contextmanager
    def disable_adapter(self) -> Iterator[None]:
        """Inside, every row uses the base model."""
        chosen = self._chosen
        self.set_adapter(BASE)
        try:
            yield
        finally:
            self.set_adapter(chosen)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.module, name)


def replace_modules(module: nn.Module, replacements: Mapping[str, nn.Module]) -> None:
    """Put each module at its path (such as model.layers.0.mlp.up_proj) in place of what stands there."""
    for path, replacement in replacements.items():
        parent, _, name = path.rpartition(".")
        setattr(module.get_submodule(parent), name, replacement)
