// RUN: lowc opt %s --split-input-file --verify-diagnostics --pass-pipeline='builtin.module(lowc-name-matmuls,lowc-assign-forms{rules="[{\"match\":\"rtn*\",\"form\":\"dequant\",\"weights\":\"i4\",\"group\":16},{\"match\":\"*\",\"form\":\"dequant\",\"weights\":\"i4\",\"group\":16,\"method\":\"gptq\"}]"},lowc-collect-moments)' | filecheck %s

// Two layers and a product that is rounded without inputs: all are exact, two are measured.

util.global private @a.weight = #flow.parameter.named<"model"::"a.weight"> : tensor<32x16xf32>
util.global private @rtn.weight = #flow.parameter.named<"model"::"rtn.weight"> : tensor<16x16xf32>
util.global private @b.weight = #flow.parameter.named<"model"::"b.weight"> : tensor<8x16xf32>
// CHECK: #[[ROWS:.*]] = affine_map<(d0, d1, d2) -> (d2, d0)>
// CHECK: #[[COLUMNS:.*]] = affine_map<(d0, d1, d2) -> (d2, d1)>
// CHECK: #[[MOMENTS:.*]] = affine_map<(d0, d1, d2) -> (d0, d1)>
// CHECK-LABEL: func.func @layers
// CHECK-SAME: -> (tensor<2x8xf32> {some.note = 1 : i32}, tensor<32x32xf32>, tensor<16x16xf32>)
// CHECK-SAME: lowc.moments = "[{{\[\[}}\22a\22,\22a.weight {{.*}}]],{{\[\[}}\22b\22,\22b.weight {{.*}}]]]"
func.func @layers(%x: tensor<2x32xf32>, %i: tensor<2x16xf32>, %j: tensor<2x8xf32>)
    -> (tensor<2x8xf32> {some.note = 1 : i32}) {
  %w = util.global.load @a.weight : tensor<32x16xf32>
  // CHECK: %[[ZERO:.*]] = linalg.fill {{.*}} -> tensor<32x32xf32>
  // CHECK: %[[H:.*]] = linalg.generic {indexing_maps = [#[[ROWS]], #[[COLUMNS]], #[[MOMENTS]]], iterator_types = ["parallel", "parallel", "reduction"]} ins(%arg0, %arg0 : tensor<2x32xf32>, tensor<2x32xf32>) outs(%[[ZERO]] : tensor<32x32xf32>) attrs = {lowc.form = {form = "exact"}}
  // CHECK: arith.mulf %in, %in_{{.*}} : f32
  // CHECK: arith.addf %out, %{{.*}} : f32
  // CHECK: %[[A:.*]] = linalg.matmul {lowc.form = {form = "exact"}
  // CHECK-SAME: lowc.lowering = "exact (its inputs are measured)", lowc.matmul = "a"
  // expected-remark@+1 {{a: inputs measured: 32 x 32}}
  %a = linalg.matmul ins(%x, %w : tensor<2x32xf32>, tensor<32x16xf32>)
      outs(%i : tensor<2x16xf32>) -> tensor<2x16xf32>
  %v = util.global.load @rtn.weight : tensor<16x16xf32>
  // CHECK-NOT: iterator_types
  // CHECK: %[[R:.*]] = linalg.matmul {lowc.form = {form = "exact"}{{.*}} ins(%[[A]]
  %r = linalg.matmul ins(%a, %v : tensor<2x16xf32>, tensor<16x16xf32>)
      outs(%i : tensor<2x16xf32>) -> tensor<2x16xf32>
  %u = util.global.load @b.weight : tensor<8x16xf32>
  %e = tensor.empty() : tensor<16x8xf32>
  %t = linalg.transpose ins(%u : tensor<8x16xf32>) outs(%e : tensor<16x8xf32>) permutation = [1, 0]
  // CHECK: %[[G:.*]] = linalg.generic {{.*}} ins(%[[R]], %[[R]]
  // CHECK: %[[B:.*]] = linalg.matmul
  // expected-remark@+1 {{b: inputs measured: 16 x 16}}
  %b = linalg.matmul ins(%r, %t : tensor<2x16xf32>, tensor<16x8xf32>)
      outs(%j : tensor<2x8xf32>) -> tensor<2x8xf32>
  // CHECK: return %[[B]], %[[H]], %[[G]]
  return %b : tensor<2x8xf32>
}

// -----
// All rows of a batch count, and 16-bit inputs are made wide; K need not be the last dimension.

util.global private @batch.weight = #flow.parameter.named<"model"::"batch.weight"> : tensor<16x8xf16>
// CHECK: #[[ROWS:.*]] = affine_map<(d0, d1, d2, d3) -> (d2, d0, d3)>
// CHECK: #[[COLUMNS:.*]] = affine_map<(d0, d1, d2, d3) -> (d2, d1, d3)>
// CHECK-LABEL: func.func @batch
// CHECK-SAME: -> (tensor<3x?x8xf16>, tensor<16x16xf32>)
func.func @batch(%x: tensor<3x16x?xf16>, %i: tensor<3x?x8xf16>) -> tensor<3x?x8xf16> {
  // CHECK: linalg.generic {indexing_maps = [#[[ROWS]], #[[COLUMNS]], #{{.*}}], iterator_types = ["parallel", "parallel", "reduction", "reduction"]}
  // CHECK: arith.extf
  // CHECK: arith.extf
  %w = util.global.load @batch.weight : tensor<16x8xf16>
  // expected-remark@+1 {{batch: inputs measured: 16 x 16}}
  %y = linalg.generic {indexing_maps = [affine_map<(b, m, n, k) -> (b, k, m)>, affine_map<(b, m, n, k) -> (k, n)>, affine_map<(b, m, n, k) -> (b, m, n)>], iterator_types = ["parallel", "parallel", "parallel", "reduction"]} ins(%x, %w : tensor<3x16x?xf16>, tensor<16x8xf16>) outs(%i : tensor<3x?x8xf16>) {
  ^bb0(%a: f16, %b: f16, %acc: f16):
    %p = arith.mulf %a, %b : f16
    %s = arith.addf %acc, %p : f16
    linalg.yield %s : f16
  } -> tensor<3x?x8xf16>
  return %y : tensor<3x?x8xf16>
}

// -----
// What cannot be measured stays exact too.

util.global private @in.weight = #flow.parameter.named<"model"::"in.weight"> : tensor<32x8xf32>
util.global private @each.weight = #flow.parameter.named<"model"::"each.weight"> : tensor<3x32x8xf32>
// CHECK-LABEL: func.func @refused
// CHECK-SAME: -> tensor<2x8xf32> {
func.func @refused(%c: i1, %x: tensor<2x32xf32>, %i: tensor<2x8xf32>) -> tensor<2x8xf32> {
  %w = util.global.load @in.weight : tensor<32x8xf32>
  // CHECK: scf.if
  // CHECK-NEXT: linalg.matmul {lowc.form = {form = "exact"}
  %y = scf.if %c -> tensor<2x8xf32> {
    // expected-remark@+1 {{in: inputs not measured: it is inside scf.if}}
    %0 = linalg.matmul ins(%x, %w : tensor<2x32xf32>, tensor<32x8xf32>)
        outs(%i : tensor<2x8xf32>) -> tensor<2x8xf32>
    scf.yield %0 : tensor<2x8xf32>
  } else {
    scf.yield %i : tensor<2x8xf32>
  }
  return %y : tensor<2x8xf32>
}
// CHECK-LABEL: func.func @each
// CHECK-SAME: -> tensor<3x2x8xf32> {
func.func @each(%x: tensor<3x2x32xf32>, %i: tensor<3x2x8xf32>) -> tensor<3x2x8xf32> {
  %w = util.global.load @each.weight : tensor<3x32x8xf32>
  // expected-remark@+1 {{each: inputs not measured: each batch has a weight of its own}}
  %y = linalg.batch_matmul ins(%x, %w : tensor<3x2x32xf32>, tensor<3x32x8xf32>)
      outs(%i : tensor<3x2x8xf32>) -> tensor<3x2x8xf32>
  return %y : tensor<3x2x8xf32>
}
// CHECK-LABEL: func.func @product
// CHECK-SAME: -> tensor<2x4xf32> {
func.func @product(%x: tensor<2x32xf32>, %y: tensor<32x4xf32>, %i: tensor<2x4xf32>) -> tensor<2x4xf32> {
  // expected-remark@+1 {{inputs not measured: a product of two activations has no weight}}
  %z = linalg.matmul ins(%x, %y : tensor<2x32xf32>, tensor<32x4xf32>)
      outs(%i : tensor<2x4xf32>) -> tensor<2x4xf32>
  return %z : tensor<2x4xf32>
}

// -----
// What reads the same rows shares a result; only some are measured when they are named.

util.global private @q.weight = #flow.parameter.named<"model"::"q.weight"> : tensor<16x8xf32>
util.global private @k.weight = #flow.parameter.named<"model"::"k.weight"> : tensor<16x8xf32>
// CHECK-LABEL: func.func @shared
// CHECK-SAME: -> (tensor<2x8xf32>, tensor<2x8xf32>, tensor<16x16xf32>)
// CHECK-SAME: lowc.moments = "[{{\[\[}}\22q\22,\22q.weight {{.*}}],[\22k\22,\22k.weight {{.*}}]]]"
func.func @shared(%x: tensor<2x16xf32>, %i: tensor<2x8xf32>) -> (tensor<2x8xf32>, tensor<2x8xf32>) {
  // CHECK: linalg.generic {{.*}} ins(%arg0, %arg0
  // CHECK-NOT: linalg.generic
  %w = util.global.load @q.weight : tensor<16x8xf32>
  // expected-remark@+1 {{q: inputs measured: 16 x 16}}
  %a = linalg.matmul ins(%x, %w : tensor<2x16xf32>, tensor<16x8xf32>)
      outs(%i : tensor<2x8xf32>) -> tensor<2x8xf32>
  %v = util.global.load @k.weight : tensor<16x8xf32>
  // expected-remark@+1 {{k: inputs measured: 16 x 16}}
  %b = linalg.matmul ins(%x, %v : tensor<2x16xf32>, tensor<16x8xf32>)
      outs(%i : tensor<2x8xf32>) -> tensor<2x8xf32>
  return %a, %b : tensor<2x8xf32>, tensor<2x8xf32>
}
