"""The model that FederatedScope sees: the adapter's tensors and nothing else.

FederatedScope pickles models to measure them, copies them, moves them and broadcasts their whole state; with a view
all that costs an adapter. The base model is elsewhere, once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch


class AdapterView(torch.nn.Module):
    """Owns a copy of the federated tensors, by canonical PEFT name.

    Args:
        state: name -> tensor; copied.
    """

    def __init__(self, state: Mapping[str, torch.Tensor]):
        super().__init__()
        self._state = {name: torch.nn.Parameter(t.detach().clone(), requires_grad=True) for name, t in state.items()}

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, torch.Tensor]:  # type: ignore[override]
        """The tensors, as live aliases, as FederatedScope's own models give them."""
        return {name: p.data for name, p in self._state.items()}

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Copy values in; names that the view does not have are an error when ``strict``."""
        unknown = [name for name in state_dict if name not in self._state]
        missing = [name for name in self._state if name not in state_dict]
        if strict and (unknown or missing):
            raise KeyError(f"adapter tensors do not match: unknown {unknown[:3]}, missing {missing[:3]}")
        with torch.no_grad():
            for name, value in state_dict.items():
                if name in self._state:
                    self._state[name].copy_(value)
        return missing, unknown

    def named_parameters(  # type: ignore[override]
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, torch.nn.Parameter]]:
        """Names and parameters."""
        yield from ((prefix + name, p) for name, p in self._state.items())

    def parameters(self, recurse: bool = True) -> Iterator[torch.nn.Parameter]:  # type: ignore[override]
        """The parameters."""
        yield from self._state.values()

    def __deepcopy__(self, memo: dict[int, Any]) -> AdapterView:
        return AdapterView(self.state_dict())

    def __reduce__(self) -> Any:
        # FederatedScope pickles every worker's model for the sake of its size in a time simulation that we do
        # not take part in; a view is never sent as a pickle.
        return (str, (f"adapter of {len(self._state)} tensors",))
