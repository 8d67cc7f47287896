// RUN: lowc opt %s --split-input-file --verify-diagnostics --pass-pipeline='builtin.module(lowc-name-matmuls,lowc-assign-forms{rules="[{\"match\":\"exact*\",\"form\":\"exact\"},{\"match\":\"*\",\"form\":\"dequant\",\"weights\":\"i4\",\"group\":16}]"},lowc-shadow-matmuls)' | filecheck %s
// RUN: lowc opt %s --split-input-file --pass-pipeline='builtin.module(lowc-name-matmuls,lowc-assign-forms{rules="[{\"match\":\"exact*\",\"form\":\"exact\"},{\"match\":\"*\",\"form\":\"dequant\",\"weights\":\"i4\",\"group\":16}]"},lowc-shadow-matmuls,lowc-quantize-weights,canonicalize,cse)' 2>/dev/null | filecheck %s --check-prefix=THEN

// Two layers: the second reads the exact result of the first, in both of its ways.  The sums come
// in the order of the layers, and attributes of results stay where they were.

util.global private @a.weight = #flow.parameter.named<"model"::"a.weight"> : tensor<32x16xf32>
util.global private @b.weight = #flow.parameter.named<"model"::"b.weight"> : tensor<16x8xf32>
// CHECK: #[[ROWS:.*]] = affine_map<(d0, d1, d2) -> (d0, d2)>
// CHECK: #[[SUMS:.*]] = affine_map<(d0, d1, d2) -> (d0, d1)>
// CHECK-LABEL: func.func @two_layers
// CHECK-SAME: -> (tensor<2x8xf32> {some.note = 1 : i32}, tensor<2x3xf32>)
// CHECK-SAME: lowc.shadows = "[\22a\22,\22b\22]"
// THEN-LABEL: func.func @two_layers
func.func @two_layers(%x: tensor<2x32xf32>, %i: tensor<2x16xf32>, %j: tensor<2x8xf32>)
    -> (tensor<2x8xf32> {some.note = 1 : i32}) {
  // CHECK: %[[W:.*]] = util.global.load @a.weight
  // CHECK: %[[AF:.*]] = linalg.matmul {lowc.form = {{{.*}}form = "dequant"{{.*}}lowc.matmul = "a"
  // CHECK-SAME: ins(%arg0, %[[W]]
  // CHECK: %[[AE:.*]] = linalg.matmul {lowc.form = {form = "exact"},
  // CHECK-SAME: lowc.lowering = "exact (what its form is compared with)", lowc.matmul = "a"
  // CHECK-SAME: ins(%arg0, %[[W]]
  // CHECK: %[[ZERO:.*]] = linalg.fill
  // CHECK: %[[PARTS:.*]] = linalg.generic {indexing_maps = [#[[ROWS]], #[[ROWS]], #[[SUMS]]], iterator_types = ["parallel", "parallel", "reduction"]} ins(%[[AF]], %[[AE]] : tensor<2x16xf32>, tensor<2x16xf32>) outs(%[[ZERO]] : tensor<2x3xf32>)
  // CHECK: %[[WHICH:.*]] = linalg.index 1
  // CHECK: %[[D:.*]] = arith.subf %in, %[[E:.*]] : f32
  // CHECK: %[[FIRST:.*]] = arith.cmpi eq, %[[WHICH]], %c0
  // CHECK: %[[SECOND:.*]] = arith.cmpi eq, %[[WHICH]], %c1
  // CHECK: %[[L:.*]] = arith.select %[[SECOND]], %[[E]], %[[D]] : f32
  // CHECK: %[[R:.*]] = arith.select %[[FIRST]], %[[D]], %[[E]] : f32
  // CHECK: arith.mulf %[[L]], %[[R]] : f32
  // CHECK: %[[A:.*]] = linalg.generic {{.*}}iterator_types = ["parallel", "reduction"]} ins(%[[PARTS]] : tensor<2x3xf32>) outs(%{{.*}} : tensor<3xf32>)
  // Rewritten later, only the clone has codes; the model itself reads the weight as it was.
  // THEN: util.global.load @a.weight : tensor<32x16xf32>
  // THEN: tensor<16x2x16xi4>
  // THEN: %[[LATER:.*]] = linalg.matmul {lowc.form = {form = "exact"}
  // THEN: linalg.matmul {lowc.form = {form = "exact"}{{.*}} ins(%[[LATER]]
  %w = util.global.load @a.weight : tensor<32x16xf32>
  // expected-remark@+1 {{a: measured in the form dequant}}
  %a = linalg.matmul ins(%x, %w : tensor<2x32xf32>, tensor<32x16xf32>)
      outs(%i : tensor<2x16xf32>) -> tensor<2x16xf32>
  // CHECK: linalg.matmul {lowc.form = {{{.*}}form = "dequant"{{.*}}lowc.matmul = "b"{{.*}} ins(%[[AE]],
  // CHECK: %[[B:.*]] = linalg.matmul {lowc.form = {form = "exact"}{{.*}} ins(%[[AE]],
  // CHECK: %[[T:.*]] = tensor.insert_slice %[[A]] into %{{.*}}[0, 0] [1, 3] [1, 1] : tensor<3xf32> into tensor<2x3xf32>
  // CHECK: %[[U:.*]] = tensor.insert_slice %{{.*}} into %[[T]][1, 0] [1, 3] [1, 1]
  // CHECK: return %[[B]], %[[U]]
  %v = util.global.load @b.weight : tensor<16x8xf32>
  // expected-remark@+1 {{b: measured in the form dequant}}
  %b = linalg.matmul ins(%a, %v : tensor<2x16xf32>, tensor<16x8xf32>)
      outs(%j : tensor<2x8xf32>) -> tensor<2x8xf32>
  return %b : tensor<2x8xf32>
}

// -----
// Dynamic rows, a batch, and 16-bit results, which are made wide before they are compared.

util.global private @dynamic.weight = #flow.parameter.named<"model"::"dynamic.weight"> : tensor<3x16x8xf16>
// CHECK-LABEL: func.func @dynamic
// CHECK-SAME: -> (tensor<3x?x8xf16>, tensor<1x3xf32>)
func.func @dynamic(%x: tensor<3x?x16xf16>, %i: tensor<3x?x8xf16>) -> tensor<3x?x8xf16> {
  // CHECK: %[[EXACT:.*]] = linalg.batch_matmul {lowc.form = {form = "exact"}
  // CHECK: %[[ROWS:.*]] = tensor.dim %[[EXACT]], %c1 : tensor<3x?x8xf16>
  // CHECK: tensor.empty(%[[ROWS]]) : tensor<3x?x3xf32>
  // CHECK: iterator_types = ["parallel", "parallel", "parallel", "reduction"]
  // CHECK: arith.extf %{{.*}} : f16 to f32
  // CHECK: arith.extf %{{.*}} : f16 to f32
  // CHECK: arith.subf %{{.*}} : f32
  // CHECK: iterator_types = ["parallel", "reduction", "reduction"]
  %w = util.global.load @dynamic.weight : tensor<3x16x8xf16>
  // expected-remark@+1 {{dynamic: measured}}
  %y = linalg.batch_matmul ins(%x, %w : tensor<3x?x16xf16>, tensor<3x16x8xf16>)
      outs(%i : tensor<3x?x8xf16>) -> tensor<3x?x8xf16>
  return %y : tensor<3x?x8xf16>
}

// -----
// A single number is its own sum.

util.global private @dot.weight = #flow.parameter.named<"model"::"dot.weight"> : tensor<32xf32>
// CHECK-LABEL: func.func @dot
func.func @dot(%x: tensor<32xf32>, %i: tensor<f32>) -> tensor<f32> {
  // CHECK: iterator_types = ["parallel"]} ins(%{{.*}}, %{{.*}} : tensor<f32>, tensor<f32>) outs(%{{.*}} : tensor<3xf32>)
  // CHECK-NOT: "reduction"
  // CHECK: tensor.insert_slice
  %w = util.global.load @dot.weight : tensor<32xf32>
  // expected-remark@+1 {{dot: measured}}
  %y = linalg.dot ins(%x, %w : tensor<32xf32>, tensor<32xf32>) outs(%i : tensor<f32>) -> tensor<f32>
  return %y : tensor<f32>
}

// -----
// Nothing to measure: an exact matmul leaves the function as it is.

util.global private @exact.weight = #flow.parameter.named<"model"::"exact.weight"> : tensor<32x8xf32>
// CHECK-LABEL: func.func @exact
// CHECK-SAME: -> tensor<2x8xf32> {
func.func @exact(%x: tensor<2x32xf32>, %i: tensor<2x8xf32>) -> tensor<2x8xf32> {
  // CHECK: linalg.matmul
  // CHECK-NOT: linalg
  %w = util.global.load @exact.weight : tensor<32x8xf32>
  %y = linalg.matmul ins(%x, %w : tensor<2x32xf32>, tensor<32x8xf32>)
      outs(%i : tensor<2x8xf32>) -> tensor<2x8xf32>
  return %y : tensor<2x8xf32>
}

// -----
// What is measured must reach a return: not from a branch, nor from a function that others call.
// Integers have no error to measure.  All of them stay exact.

util.global private @in.weight = #flow.parameter.named<"model"::"in.weight"> : tensor<32x8xf32>
util.global private @low.weight = #flow.parameter.named<"model"::"low.weight"> : tensor<32x8xi32>
// CHECK-LABEL: func.func @refused
// CHECK-SAME: -> tensor<2x8xf32> {
func.func @refused(%c: i1, %x: tensor<2x32xf32>, %i: tensor<2x8xf32>) -> tensor<2x8xf32> {
  %w = util.global.load @in.weight : tensor<32x8xf32>
  // CHECK: scf.if
  // CHECK-NEXT: linalg.matmul {lowc.form = {form = "exact"}
  // CHECK-SAME: lowc.lowering = "exact (not measured: it is inside scf.if)"
  %y = scf.if %c -> tensor<2x8xf32> {
    // expected-remark@+1 {{in: not measured: it is inside scf.if}}
    %0 = linalg.matmul ins(%x, %w : tensor<2x32xf32>, tensor<32x8xf32>)
        outs(%i : tensor<2x8xf32>) -> tensor<2x8xf32>
    scf.yield %0 : tensor<2x8xf32>
  } else {
    scf.yield %i : tensor<2x8xf32>
  }
  %z = func.call @helper(%y, %i) : (tensor<2x8xf32>, tensor<2x8xf32>) -> tensor<2x8xf32>
  return %z : tensor<2x8xf32>
}
util.global private @help.weight = #flow.parameter.named<"model"::"help.weight"> : tensor<8x8xf32>
// CHECK-LABEL: func.func @helper
// CHECK-SAME: -> tensor<2x8xf32> {
func.func @helper(%x: tensor<2x8xf32>, %i: tensor<2x8xf32>) -> tensor<2x8xf32> {
  // CHECK: lowc.form = {form = "exact"}
  %w = util.global.load @help.weight : tensor<8x8xf32>
  // expected-remark@+1 {{help: not measured: other functions call 'helper'}}
  %y = linalg.matmul ins(%x, %w : tensor<2x8xf32>, tensor<8x8xf32>)
      outs(%i : tensor<2x8xf32>) -> tensor<2x8xf32>
  return %y : tensor<2x8xf32>
}
// CHECK-LABEL: func.func @integers
// CHECK-SAME: -> tensor<2x8xi32> {
func.func @integers(%x: tensor<2x32xi32>, %i: tensor<2x8xi32>) -> tensor<2x8xi32> {
  // CHECK: lowc.form = {form = "exact"}
  %w = util.global.load @low.weight : tensor<32x8xi32>
  // expected-remark@+1 {{low: not measured: its result is tensor<2x8xi32>, no floats}}
  %y = linalg.matmul ins(%x, %w : tensor<2x32xi32>, tensor<32x8xi32>)
      outs(%i : tensor<2x8xi32>) -> tensor<2x8xi32>
  return %y : tensor<2x8xi32>
}
