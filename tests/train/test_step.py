"""Programs depend on shapes and recipes, not on seeds: a grid compiles once for all seeds of a model."""

import jax

from tests.helpers.training import program_of


def test_another_seed_is_the_same_program():
    def text(seeds):
        program, source = program_of(seeds=seeds, model="fnet")
        chunk = jax.jit(program.chunk, static_argnames="steps")
        return chunk.lower(program.init(), program.fixed, source.data["train"], steps=2).as_text()

    assert text((3,)) == text((4,)) and text((1, 2)) == text((7, 0))
