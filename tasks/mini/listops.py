"""ListOps of the mini arena: nested list expressions of up to 128 tokens.

Data card
    What        The benchmark's ListOps (`tasks.listops`) with shorter expressions: 25 to 127 tokens, 54 on average,
                of operators with 2 to 5 arguments, nested at most 8 deep; ten classes.
    Shrunk      The length (2,000 in the benchmark), the arguments (10) and the depth (10).
    Demands     To pair each bracket with its operator, however far away, and to apply operators in the order of
                the nesting. The answer depends on the operators at the root and on few of the digits.
    Reached     11 % by always answering the most frequent digit. In protocol `mini`, 30 % by `ff_only`, which sees
                a bag of tokens, and 42 % by `short_conv`, which sees 33 positions.
    From        Our generator, by the benchmark's rules: 100,000 / 1,000 / 4,000 distinct expressions.
    Licence     Generated data has none.
"""

from dataclasses import replace

from tasks.listops import LISTOPS_SHORT, ListOpsConfig

LISTOPS_MINI = replace(
    LISTOPS_SHORT,
    name="listops_mini",
    length=128,
    rules=ListOpsConfig(
        max_depth=8, max_args=5, min_length=24, max_length=128, train=100_000, validation=1_000, test=4_000
    ),
    summary="the mini arena's: nested list operators, up to 127 tokens; ten answers",
    stands_for="listops",
)
