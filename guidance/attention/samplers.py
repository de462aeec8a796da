"""How the stock samplers call the model: which call begins a step, and whether an edit of their x persists.

Read off comfy/k_diffusion/sampling.py and comfy/extra_samplers/uni_pc.py; a sampler is known by the name of its
function. Two ways to guide:

* state: the update is added in place to the sampler's own x, once a step.
* score: the sampler's x is out of reach or the sampler is unknown; the update moves what the model predicts instead.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import cycle

ONE_CALL = (
    "euler",
    "euler_ancestral",
    "euler_ancestral_cfg_pp",
    "euler_cfg_pp",
    "lms",
    "dpmpp_2m",
    "dpmpp_2m_cfg_pp",
    "dpmpp_2m_sde",
    "dpmpp_2m_sde_gpu",
    "dpmpp_2m_sde_heun",
    "dpmpp_2m_sde_heun_gpu",
    "dpmpp_3m_sde",
    "dpmpp_3m_sde_gpu",
    "ddpm",
    "lcm",  # throws its x away: the update acts through the prediction at the moved x, as in state mode
    "ipndm",
    "ipndm_v",
    "deis",
    "res_multistep",
    "res_multistep_cfg_pp",
    "res_multistep_ancestral",
    "res_multistep_ancestral_cfg_pp",
    "gradient_estimation",
    "gradient_estimation_cfg_pp",
    "er_sde",
    "sa_solver",  # its corrector rebuilds x: after the first step the update acts through the prediction
)
TWO_CALLS = (  # the second is left out in a step that ends at sigma 0
    "heun",
    "dpm_2",
    "dpm_2_ancestral",
    "dpmpp_2s_ancestral",
    "dpmpp_2s_ancestral_cfg_pp",
    "dpmpp_sde",
    "dpmpp_sde_gpu",
    "seeds_2",
    "exp_heun_2_x0",
    "exp_heun_2_x0_sde",
)

CALLS = {f"sample_{name}": 1 for name in ONE_CALL}
CALLS |= {f"sample_{name}": 2 for name in TWO_CALLS}
CALLS |= {"sample_seeds_3": 3, "sample_heunpp2": 3, "sample_sa_solver_pece": 2}
CALLS |= {"dpm_fast_function": 3, "sample_dpm_fast": 3, "dpm_adaptive_function": 3, "sample_dpm_adaptive": 3}


def function_name(sampler: object) -> str:
    """Name of a SAMPLER object's function; '' for one that has none (a class of its own, a partial)."""
    return getattr(getattr(sampler, "sampler_function", None), "__name__", "")


def keeps_edits(sampler: object) -> bool:
    """True when an edit of the x that the sampler hands to the model is an edit of its state (state mode)."""
    return function_name(sampler) in CALLS


def calls_of_steps(name: str, steps: int, ends_at_zero: bool, order: int = 3) -> Iterator[int]:
    """How often each step calls the model, step by step. `order`: the sampler option of that name (dpm_adaptive)."""
    full = CALLS[name]
    if name == "dpm_fast_function" or name == "sample_dpm_fast":
        yield from _dpm_fast(steps)
    elif name == "dpm_adaptive_function" or name == "sample_dpm_adaptive":
        yield from cycle((order,))  # it chooses its own number of steps
    elif name == "sample_heunpp2":
        yield from ([3] * (steps - 2) + [2, 1])[-steps:]
    elif name == "sample_sa_solver_pece":
        yield from [1] + [2] * (steps - 1)
    else:
        yield from [full] * (steps - 1) + [1 if ends_at_zero else full]


def _dpm_fast(evaluations: int) -> list[int]:
    """Orders of the single steps of DPM-Solver-fast (arXiv 2206.00927, appendix D.3)."""
    singles, rest = evaluations // 3 + 1, evaluations % 3
    return [3] * (singles - 2) + [2, 1] if rest == 0 else [3] * (singles - 1) + [rest]


def guided_calls(sampler: object, steps: int, ends_at_zero: bool) -> Iterator[bool]:
    """For each call of the model in turn: is x the sampler's state there, at the beginning of a step?

    The other calls are trial points inside a step: moving those would only blur the solver.
    """
    name = function_name(sampler)
    order = int(getattr(sampler, "extra_options", {}).get("order", 3))
    for calls in calls_of_steps(name, steps, ends_at_zero, order):
        # sa_solver_pece first predicts and then evaluates the corrected state: the last call is the one that counts
        guided = calls - 1 if name == "sample_sa_solver_pece" else 0
        yield from (call == guided for call in range(calls))
    while True:  # more calls than expected: a changed sampler; guiding each is the safe reading
        yield True
