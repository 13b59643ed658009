"""Export of a trained model to a bundle: one ONNX graph that gives the answers of the model.

exporter.py       the export, step by step
graph.py          module that is exported
to_onnx.py        the plain graph
optimize.py       fused operators, and weights in fp16
quantize.py       matrix multiplications and embedding tables in int8
compact.py        weights that were trained for int8, as integers and once for all graphs
variants.py       graphs for each precision, and the candidates to measure
predictors.py     predictors of the parity check
reference.py      outputs and answers of the trained model
parity.py         comparison with the trained model
gate.py           rule and figures of each candidate
sensitivity.py    sensitivity of matrix multiplications to int8
int8_search.py    search for an int8 graph that passes with a margin
report.py         candidates, their speed, and the variants that are not written
golden.py         golden examples
model_card.py     the model card
register.py       registers bundles in MLflow
bundle_draft.py   the bundle during its export, and its manifest
bundle_writer.py  files of the bundle
"""
