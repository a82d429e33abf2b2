"""What the oldest torch that is asked for lacks, or does in another way: tests that are skipped there, and why."""

import pytest
import torch

ON_2_6 = {
    "test_dimensions[one_hot_layer]": "its one_hot ends a translation claim: missed, not wrong",
    "test_forwards_that_differentiate_are_refused[<lambda>1]": "refused in other words",
    "test_operators_that_take_functions_are_refused": "refused in other words",
    "test_refused_energies[transform]": "refused in other words",
    "test_scripted_models_are_refused": "torch.jit does not warn there yet",
    "test_a_field_does_not_see_the_last_bias_of_its_potential": "it has no vmap of jvp outside of a gradient",
    "test_between_walls_the_last_bias_is_seen_and_training_is_followed": "it has no vmap of jvp outside of a gradient",
    "test_a_trace_that_takes_another_way_says_nothing": "torch itself ends the process",
    "test_generated_pages_are_up_to_date": "the pages list torch.optim.Muon",
    "test_saved_programs.py": "its programs are archives of another kind, which are refused",
    "test_detect_a_saved_program": "its programs are archives of another kind, which are refused",
    "test_detect_without_numbers": "its programs are archives of another kind, which are refused",
    "Muon and AdamW": "it has no torch.optim.Muon",
    "test_updates_that_mix_elements_are_taken_once_more_as_wholes": "it has no torch.optim.Muon",
    "test_the_direction_of_muon_is_written_out_as_torch_has_it": "it has no torch.optim.Muon",
}


def skip_what_torch_lacks(items: list[pytest.Item]) -> None:
    if not torch.__version__.startswith("2.6."):
        return
    for item in items:
        for part, why in ON_2_6.items():
            if part in item.nodeid:
                item.add_marker(pytest.mark.skip(reason=f"torch 2.6: {why}"))
