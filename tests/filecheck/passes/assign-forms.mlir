// RUN: lowc opt %s --pass-pipeline='builtin.module(lowc-name-matmuls,lowc-assign-forms{rules="[{\"match\":\"*.attention.?uery\",\"form\":\"exact\"},{\"match\":\"*:*\",\"form\":\"exact\"},{\"match\":\"layer.*\",\"form\":\"dequant\",\"weights\":\"i4\",\"group\":16,\"symmetric\":false},{\"match\":\"layer.0.fc\",\"form\":\"dequant\",\"weights\":\"i8\"}]"})' | filecheck %s
// RUN: lowc opt %s -o %t --pass-pipeline='builtin.module(lowc-name-matmuls,lowc-assign-forms{rules="[{\"match\":\"*:*\",\"form\":\"lmul\"},{\"match\":\"*:0\",\"form\":\"pam\"},{\"match\":\"*:qk\",\"form\":\"exact\"},{\"match\":\"?:?\",\"form\":\"exact\"}]"})' 2>&1 | filecheck %s --check-prefix=UNUSED
// RUN: lowc opt %s --pass-pipeline='builtin.module(lowc-name-matmuls,lowc-assign-forms)' | filecheck %s --check-prefix=NONE
// RUN: not lowc opt %s --pass-pipeline='builtin.module(lowc-assign-forms{rules="[{\"match\":\"*\",\"form\":\"dequant\",\"weights\":\"i9\"}]"})' 2>&1 | filecheck %s --check-prefix=WORD
// RUN: not lowc opt %s --pass-pipeline='builtin.module(lowc-assign-forms{rules="[{\"match\":\"*\",\"from\":\"exact\"}]"})' 2>&1 | filecheck %s --check-prefix=KEY
// RUN: not lowc opt %s --pass-pipeline='builtin.module(lowc-assign-forms{rules="[{\"match\":\"*\",\"form\":\"dequant\",\"weights\":\"i4\",\"group\":4}]"})' 2>&1 | filecheck %s --check-prefix=GROUP
// RUN: not lowc opt %s --pass-pipeline='builtin.module(lowc-assign-forms{rules="[{"})' 2>&1 | filecheck %s --check-prefix=JSON
// RUN: not lowc opt %s --pass-pipeline='builtin.module(lowc-assign-forms{rule="[]"})' 2>&1 | filecheck %s --check-prefix=OPTION

// Rules that decide nothing; one that is exact and all wildcards may.
// UNUSED: warning: rule '*:0': earlier rules decide for all that it matches [lowc-assign-forms]
// UNUSED-NEXT: warning: rule '*:qk': no matmul has such a name [lowc-assign-forms]

// WORD: error: lowc-assign-forms, rule 1: weights = 'i9' is unknown
// WORD-NEXT: hint: did you mean 'i
// KEY: error: lowc-assign-forms, rule 1: the key 'from' is unknown
// KEY-NEXT: hint: did you mean 'form'?
// GROUP: error: lowc-assign-forms, rule 1: group = 4 is not 16, 32, 48 or a multiple of 64
// JSON: error: lowc-assign-forms: the rules are not JSON
// OPTION: error: lowc-assign-forms: the pass has no option 'rule'
// OPTION-NEXT: hint: did you mean 'rules'?

util.global private @w = #flow.parameter.named<"model"::"w"> : tensor<4x4xf32>

// CHECK-LABEL: func.func @main
// NONE-LABEL: func.func @main
func.func @main(%x: tensor<2x4xf32>, %y: tensor<4x4xf32>, %init: tensor<2x4xf32>) -> tensor<2x4xf32> {
  %w = util.global.load @w : tensor<4x4xf32>
  // The first rule that matches wins, with a glob in it.
  // CHECK: linalg.matmul {lowc.form = {form = "exact"}, lowc.kind = "weight", lowc.lowering = "exact (rule '*.attention.?uery')", lowc.matmul = "layer.0.attention.query"
  // NONE: linalg.matmul {lowc.form = {form = "exact"}, lowc.kind = "weight", lowc.lowering = "exact (no rule matches)"
  %0 = linalg.matmul ins(%x, %w : tensor<2x4xf32>, tensor<4x4xf32>)
      outs(%init : tensor<2x4xf32>) -> tensor<2x4xf32> loc("layer.0.attention.query")
  // A product of two activations.
  // CHECK: linalg.matmul {lowc.form = {form = "exact"}, lowc.kind = "product", lowc.lowering = "exact (rule '*:*')", lowc.matmul = "layer.0.attention:0"
  %1 = linalg.matmul ins(%0, %y : tensor<2x4xf32>, tensor<4x4xf32>)
      outs(%init : tensor<2x4xf32>) -> tensor<2x4xf32> loc("layer.0.attention")
  // A later, more special rule does not win; its form carries every field.
  // CHECK: linalg.matmul {lowc.form = {activation_scale = "row", activations = "f32", form = "dequant", group = 16 : i64, method = "rtn", symmetric = false, weights = "i4"}, lowc.kind = "weight", lowc.matmul = "layer.0.fc"
  %2 = linalg.matmul ins(%1, %w : tensor<2x4xf32>, tensor<4x4xf32>)
      outs(%init : tensor<2x4xf32>) -> tensor<2x4xf32> loc("layer.0.fc")
  // No rule matches.
  // CHECK: linalg.matmul {lowc.form = {form = "exact"}, lowc.kind = "weight", lowc.lowering = "exact (no rule matches)", lowc.matmul = "pooler"
  %3 = linalg.matmul ins(%2, %w : tensor<2x4xf32>, tensor<4x4xf32>)
      outs(%init : tensor<2x4xf32>) -> tensor<2x4xf32> loc("pooler")
  // What has no name gets no form.
  // CHECK: linalg.fill ins(
  %c = arith.constant 0.0 : f32
  %4 = linalg.fill ins(%c : f32) outs(%3 : tensor<2x4xf32>) -> tensor<2x4xf32>
  return %4 : tensor<2x4xf32>
}
