"""One tiny case per public class and function, and the values that each must keep.

`layer_cases` and `op_cases` hold the tables of what has numbers, `structure_cases` the rest.
`running` runs a case under the backend in use. `expected` holds inputs and outputs, which `write`
computes in float64 from the papers' equations alone: `PYTHONPATH=.:tests python -m goldens.write`.
"""
