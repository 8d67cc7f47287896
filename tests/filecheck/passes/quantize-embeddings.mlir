// RUN: lowc opt %s --split-input-file --verify-diagnostics --pass-pipeline='builtin.module(lowc-assign-forms{rules="[{\"match\":\"exact*\",\"form\":\"exact\",\"of\":\"embedding\"},{\"match\":\"zero*\",\"form\":\"dequant\",\"weights\":\"i4\",\"group\":16,\"symmetric\":false,\"of\":\"embedding\"},{\"match\":\"*\",\"form\":\"dequant\",\"weights\":\"i4\",\"group\":32,\"of\":\"embedding\"}]"},lowc-quantize-embeddings,canonicalize,cse,symbol-dce)' | filecheck %s
// RUN: lowc opt %s --split-input-file --pass-pipeline='builtin.module(lowc-assign-forms{rules="[{\"match\":\"*\",\"form\":\"dequant\",\"weights\":\"i4\",\"group\":32,\"of\":\"embedding\"}]"},lowc-quantize-embeddings{packing=words},canonicalize)' | filecheck %s --check-prefix=WORDS

// WORDS-LABEL: func.func @tokens
// WORDS: linalg.generic {{.*}} outs(%{{.*}} : tensor<?x2x4x8xf32>)
// WORDS: tensor.extract %{{.*}} : tensor<100x2x4xi32>
// WORDS: arith.shrsi
// WORDS: tensor.collapse_shape %{{.*}} {{\[\[}}0], [1, 2, 3]] : tensor<?x2x4x8xf32> into tensor<?x64xf32>

// CHECK-NOT: @embed.weight =
// CHECK-DAG: util.global private @embed.weight.i4g32.codes {{.*}}part = "codes"{{.*}} : tensor<100x2x32xi4>
// CHECK-DAG: util.global private @embed.weight.i4g32.scales {{.*}} : tensor<100x2xf32>
util.global private @embed.weight = #flow.parameter.named<"model"::"embed.weight"> : tensor<100x64xf32>
// CHECK-LABEL: func.func @tokens
// CHECK-SAME: (%[[TOKENS:.*]]: tensor<?xi64>)
func.func @tokens(%tokens: tensor<?xi64>) -> tensor<?x64xf32> {
  // CHECK: %[[Q:.*]] = util.global.load @embed.weight.i4g32.codes
  // CHECK: %[[S:.*]] = util.global.load @embed.weight.i4g32.scales
  // CHECK: %[[D:.*]] = linalg.generic {{.*}} ins(%[[TOKENS]] : tensor<?xi64>) outs(%{{.*}} : tensor<?x2x32xf32>)
  // CHECK-SAME: lowc.bits = 5.000000e+00
  // CHECK-SAME: lowc.lookup = "embed"
  // CHECK: %[[I:.*]] = arith.index_cast %{{.*}} : i64 to index
  // CHECK: tensor.extract %[[Q]][%[[I]], %[[G:.*]], %{{.*}}]
  // CHECK: tensor.extract %[[S]][%[[I]], %[[G]]]
  // CHECK: arith.mulf
  // CHECK: tensor.collapse_shape %[[D]] {{\[\[}}0], [1, 2]] : tensor<?x2x32xf32> into tensor<?x64xf32>
  %w = util.global.load @embed.weight : tensor<100x64xf32>
  %c0 = arith.constant 0 : index
  %n = tensor.dim %tokens, %c0 : tensor<?xi64>
  %e = tensor.empty(%n) : tensor<?x64xf32>
  // expected-remark@below {{embed: i4, 2 groups of 32, 5 bits each}}
  %x = linalg.generic {
      indexing_maps = [affine_map<(t, k) -> (t)>, affine_map<(t, k) -> (t, k)>],
      iterator_types = ["parallel", "parallel"]}
      ins(%tokens : tensor<?xi64>) outs(%e : tensor<?x64xf32>) {
  ^bb0(%in: i64, %out: f32):
    %i = arith.index_cast %in : i64 to index
    %k = linalg.index 1 : index
    %v = tensor.extract %w[%i, %k] : tensor<100x64xf32>
    linalg.yield %v : f32
  } -> tensor<?x64xf32>
  return %x : tensor<?x64xf32>
}

// -----
// Rows that are no whole groups are cut again; two rules before the last one.

util.global private @exact = #flow.parameter.named<"model"::"exact"> : tensor<9x40xf32>
util.global private @zero = #flow.parameter.named<"model"::"zero"> : tensor<9x40xf32>
// CHECK-LABEL: func.func @tail
func.func @tail(%tokens: tensor<2x3xi64>) -> (tensor<2x3x40xf32>, tensor<2x3x40xf32>) {
  // CHECK: tensor.extract %exact[
  // CHECK: tensor.extract %[[CODES:.*]][{{.*}} : tensor<9x3x16xi4>
  // CHECK: tensor.extract {{.*}} : tensor<9x3xi8>
  // CHECK: tensor.extract_slice %{{.*}}[0, 0, 0] [2, 3, 40] [1, 1, 1] : tensor<2x3x48xf32> to tensor<2x3x40xf32>
  %a = util.global.load @exact : tensor<9x40xf32>
  %b = util.global.load @zero : tensor<9x40xf32>
  %e = tensor.empty() : tensor<2x3x40xf32>
  %x = linalg.generic {
      indexing_maps = [affine_map<(s, t, k) -> (s, t)>, affine_map<(s, t, k) -> (s, t, k)>],
      iterator_types = ["parallel", "parallel", "parallel"]}
      ins(%tokens : tensor<2x3xi64>) outs(%e : tensor<2x3x40xf32>) {
  ^bb0(%in: i64, %out: f32):
    %i = arith.index_cast %in : i64 to index
    %k = linalg.index 2 : index
    %v = tensor.extract %a[%i, %k] : tensor<9x40xf32>
    linalg.yield %v : f32
  } -> tensor<2x3x40xf32>
  // expected-remark@below {{zero: i4, 3 groups of 16, 7.8 bits each}}
  %y = linalg.generic {
      indexing_maps = [affine_map<(s, t, k) -> (s, t)>, affine_map<(s, t, k) -> (s, t, k)>],
      iterator_types = ["parallel", "parallel", "parallel"]}
      ins(%tokens : tensor<2x3xi64>) outs(%e : tensor<2x3x40xf32>) {
  ^bb0(%in: i64, %out: f32):
    %i = arith.index_cast %in : i64 to index
    %k = linalg.index 2 : index
    %v = tensor.extract %b[%i, %k] : tensor<9x40xf32>
    linalg.yield %v : f32
  } -> tensor<2x3x40xf32>
  return %x, %y : tensor<2x3x40xf32>, tensor<2x3x40xf32>
}

// -----
// An index that is calculated, here one that may count from the end, is no embedding; and a table of short rows would only grow.

util.global private @turns = #flow.parameter.named<"model"::"turns"> : tensor<100x64xf32>
util.global private @few = #flow.parameter.named<"model"::"few"> : tensor<100x2xf32>
// CHECK-LABEL: func.func @others
func.func @others(%at: tensor<3xi64>) -> (tensor<3x64xf32>, tensor<3x2xf32>) {
  // CHECK: iterator_types = ["parallel", "parallel"]} ins(%{{.*}} : tensor<3xi64>) outs(%{{.*}} : tensor<3x64xf32>) {
  // CHECK: tensor.extract %turns
  // CHECK: outs(%{{.*}} : tensor<3x2xf32>) attrs = {{.*}}lowc.lookup = "few", lowc.lowering = "as exported (a row of 2 is too short:
  // CHECK: tensor.extract %few
  %w = util.global.load @turns : tensor<100x64xf32>
  %f = util.global.load @few : tensor<100x2xf32>
  %zero = arith.constant 0 : i64
  %size = arith.constant 100 : i64
  %e = tensor.empty() : tensor<3x64xf32>
  %x = linalg.generic {
      indexing_maps = [affine_map<(t, k) -> (t)>, affine_map<(t, k) -> (t, k)>],
      iterator_types = ["parallel", "parallel"]}
      ins(%at : tensor<3xi64>) outs(%e : tensor<3x64xf32>) {
  ^bb0(%in: i64, %out: f32):
    %below = arith.cmpi slt, %in, %zero : i64
    %up = arith.addi %in, %size : i64
    %at_last = arith.select %below, %up, %in : i64
    %i = arith.index_cast %at_last : i64 to index
    %k = linalg.index 1 : index
    %v = tensor.extract %w[%i, %k] : tensor<100x64xf32>
    linalg.yield %v : f32
  } -> tensor<3x64xf32>
  %g = tensor.empty() : tensor<3x2xf32>
  // expected-remark@below {{few: not quantised: a row of 2 is too short}}
  %y = linalg.generic {
      indexing_maps = [affine_map<(t, k) -> (t)>, affine_map<(t, k) -> (t, k)>],
      iterator_types = ["parallel", "parallel"]}
      ins(%at : tensor<3xi64>) outs(%g : tensor<3x2xf32>) {
  ^bb0(%in: i64, %out: f32):
    %i = arith.index_cast %in : i64 to index
    %k = linalg.index 1 : index
    %v = tensor.extract %f[%i, %k] : tensor<100x2xf32>
    linalg.yield %v : f32
  } -> tensor<3x2xf32>
  return %x, %y : tensor<3x64xf32>, tensor<3x2xf32>
}
