"""Binary codes that depend on inputs of a calibration: products, and the error that they leave."""

import dataclasses

import lowc
import numpy as np
import pytest
from lowc.compiler import feedback
from lowc.compiler.feedback import Feedback
from lowc.passes.formats import binary_codes, tables
from products.linear import compile_linear
from products.signs import code, form_of, product

N, K = 24, 96
FORMS = {
    "rows": form_of(2, 32),
    "rows, tables": form_of(3, 32, tables="i8"),
    "columns": form_of(2, 1, 0),
    "blocks": form_of(3, 8, N // 8),
}


def correlated(rows, seed):
    fixed, generator = np.random.default_rng(0), np.random.default_rng(seed)
    causes = generator.standard_normal((rows, K // 4)) @ fixed.standard_normal((K // 4, K))
    return (causes + generator.standard_normal((rows, K))).astype(np.float32)


@pytest.mark.parametrize("name", FORMS)
def test_the_product_has_the_codes_of_the_definition(name, tmp_path):
    form = dataclasses.replace(FORMS[name], method="gptq")
    weight = np.random.default_rng(3).standard_normal((N, K)).astype(np.float32)
    x, unseen = correlated(300, 1), correlated(9, 2)
    artifact = compile_linear(tmp_path, weight, form, None, calibration=[(x,)])
    (row,) = artifact.report["matmuls"]
    assert row["form"] == "binary" and artifact.report["notes"] == []
    found = lowc.load(artifact)(unseen)
    _, fmt, table = code(weight, form)
    moments = x.astype(np.float64).T @ x
    coded = feedback.binary(weight, Feedback.of(moments), fmt)
    if table is None:
        wanted = unseen @ binary_codes.decode(coded, fmt, K).T.astype(np.float64)
    else:
        wanted = tables.product(unseen, coded, fmt, table)
    # Moments come in f32, so a sign at a tie may be another one.
    assert (np.abs(found - wanted) < 1e-3).mean() > 0.95
    exact = unseen @ weight.T.astype(np.float64)
    alone = product(unseen, weight, FORMS[name])
    assert ((found - exact) ** 2).sum() < 0.5 * ((alone - exact) ** 2).sum()
