// RUN: lowc opt %s --split-input-file --pass-pipeline='builtin.module(lowc-name-matmuls,lowc-assign-forms{rules="[{\"match\":\"fc\",\"form\":\"shift\"},{\"match\":\"gate\",\"form\":\"binary\",\"planes\":2,\"group\":32,\"tables\":\"none\",\"method\":\"bcq\"},{\"match\":\"*\",\"form\":\"bipolar\"}]"},lowc-lower-shift-add,lowc-lower-bipolar,cse,lowc-outline-kernels{unit=avx512},canonicalize,cse,symbol-dce)' 2>&1 | filecheck %s

// Terms of a shift come in panels, four to a word, with what exponents activations may have; signs of
// planes and the terms of their scales in panels too.  70 inputs are not filled up for the kernels.

// CHECK: remark: fc: kernel of vectors of 16, {{[0-9]+}} x {{[0-9]+}} sums in registers, exponents added as integers
// CHECK: remark: gate: kernel of vectors of 16, {{[0-9]+}} x {{[0-9]+}} sums in registers, signs turned by XOR
// CHECK: remark: activations:0: kernel of vectors of 16, {{[0-9]+}} x {{[0-9]+}} sums in registers, bits counted in bytes
// CHECK: hal.executable.source private @[[G:signs_p2g32t3_1x5x40x70_t.*]] {
// CHECK: hal.executable.source private @[[F:shift_1x5x40x70_t.*]] {
// CHECK-NOT: arith.mulf
// CHECK-DAG: util.global private @fc.weight.shift.p64.terms {{.*}}kind = "shift-panels"{{.*}} : tensor<1x1x70x16xi32>
// CHECK-DAG: util.global private @fc.weight.shift.p64.ranges {{.*}} : tensor<1x1x1x2xi32>
// CHECK-DAG: util.global private @gate.weight.{{.*}}.signs {{.*}}kind = "signed-panels"{{.*}} : tensor<1x1x6x64xi32>
// CHECK-DAG: util.global private @gate.weight.{{.*}}.terms {{.*}} : tensor<1x1x6x64xi32>
// CHECK-LABEL: func.func @linear
// CHECK-NOT: linalg
// CHECK: flow.dispatch @[[F]]::@[[F]]
// CHECK-NOT: linalg
// CHECK: flow.dispatch @[[G]]::@[[G]]
// CHECK-NOT: linalg
util.global private @fc.weight = #flow.parameter.named<"model"::"fc.weight"> : tensor<40x70xf32>
util.global private @gate.weight = #flow.parameter.named<"model"::"gate.weight"> : tensor<40x70xf32>
func.func @linear(%x: tensor<5x70xf32>) -> (tensor<5x40xf32>, tensor<5x40xf32>) {
  %zero = arith.constant 0.0 : f32
  %e = tensor.empty() : tensor<5x40xf32>
  %o = linalg.fill ins(%zero : f32) outs(%e : tensor<5x40xf32>) -> tensor<5x40xf32>
  %w = util.global.load @fc.weight : tensor<40x70xf32>
  %y = linalg.generic {
    indexing_maps = [affine_map<(m, n, k) -> (m, k)>, affine_map<(m, n, k) -> (n, k)>, affine_map<(m, n, k) -> (m, n)>],
    iterator_types = ["parallel", "parallel", "reduction"]}
    ins(%x, %w : tensor<5x70xf32>, tensor<40x70xf32>) outs(%o : tensor<5x40xf32>) {
  ^bb0(%a: f32, %b: f32, %s: f32):
    %p = arith.mulf %a, %b : f32
    %t = arith.addf %s, %p : f32
    linalg.yield %t : f32
  } -> tensor<5x40xf32>
  %v = util.global.load @gate.weight : tensor<40x70xf32>
  %z = linalg.generic {
    indexing_maps = [affine_map<(m, n, k) -> (m, k)>, affine_map<(m, n, k) -> (n, k)>, affine_map<(m, n, k) -> (m, n)>],
    iterator_types = ["parallel", "parallel", "reduction"]}
    ins(%x, %v : tensor<5x70xf32>, tensor<40x70xf32>) outs(%o : tensor<5x40xf32>) {
  ^bb0(%a: f32, %b: f32, %s: f32):
    %p = arith.mulf %a, %b : f32
    %t = arith.addf %s, %p : f32
    linalg.yield %t : f32
  } -> tensor<5x40xf32>
  return %y, %z : tensor<5x40xf32>, tensor<5x40xf32>
}

// -----
// Two activations: a dispatch codes the columns of the right one, 70 bits in three words and a scale;
// the rows of the left one are coded by the product's own kernel.

// CHECK-DAG: hal.executable.source private @[[X:xor_p1f_3xdx40x70_t.*]] {
// CHECK-DAG: hal.executable.source private @[[C:code_3x70x40_p1fv16x4]] {
// CHECK-LABEL: func.func @activations
// CHECK-NOT: linalg
// CHECK: %[[R:.*]] = flow.dispatch @[[C]]::@[[C]]{{.*}} -> tensor<3x1x4x64xi32>
// CHECK: flow.dispatch @[[X]]::@[[X]]{{.*}}%[[R]]) {{.*}}lowc.matmul = "activations:0"
// CHECK-NOT: linalg
func.func @activations(%a: tensor<3x?x70xf32>, %b: tensor<3x70x40xf32>, %rows: index) -> tensor<3x?x40xf32> {
  %zero = arith.constant 0.0 : f32
  %e = tensor.empty(%rows) : tensor<3x?x40xf32>
  %o = linalg.fill ins(%zero : f32) outs(%e : tensor<3x?x40xf32>) -> tensor<3x?x40xf32>
  %y = linalg.batch_matmul ins(%a, %b : tensor<3x?x70xf32>, tensor<3x70x40xf32>) outs(%o : tensor<3x?x40xf32>) -> tensor<3x?x40xf32>
  return %y : tensor<3x?x40xf32>
}
