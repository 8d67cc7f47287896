// RUN: lowc opt %s --split-input-file --verify-diagnostics --pass-pipeline='builtin.module(lowc-outline-softmax{unit=avx512})' | filecheck %s

// Softmax as PyTorch exports it; the place of the maximum is nobody's.

#whole = affine_map<(b, r, n) -> (b, r, n)>
#row = affine_map<(b, r, n) -> (b, r, 0)>
#reduced = affine_map<(b, r, n) -> (b, r)>

// CHECK: hal.executable.source private @softmax_2x5x40_v16
// CHECK: binding(0)
// CHECK-SAME: flags(ReadOnly)
// CHECK: binding(1)
// CHECK-NOT: binding(2)
// CHECK: math.exp
// CHECK-LABEL: func.func @plain
// CHECK-SAME: (%[[X:.*]]: tensor<2x5x40xf32>)
// CHECK-NOT: math.exp
// CHECK: %[[Y:.*]] = flow.dispatch @softmax_2x5x40_v16::@softmax_2x5x40_v16[{{.*}}](%[[X]]) : (tensor<2x5x40xf32>) -> tensor<2x5x40xf32>
// CHECK-NEXT: return %[[Y]]
func.func @plain(%x: tensor<2x5x40xf32>) -> tensor<2x5x40xf32> {
  %lowest = arith.constant 0xFF800000 : f32
  %zero = arith.constant 0.0 : f32
  %none = arith.constant 0 : i64
  %e = tensor.empty() : tensor<2x5x40xf32>
  %e1 = tensor.empty() : tensor<2x5xf32>
  %ei = tensor.empty() : tensor<2x5xi64>
  %et = tensor.empty() : tensor<2x5x1xf32>
  %start = linalg.fill ins(%lowest : f32) outs(%e1 : tensor<2x5xf32>) -> tensor<2x5xf32>
  %places = linalg.fill ins(%none : i64) outs(%ei : tensor<2x5xi64>) -> tensor<2x5xi64>
  %zeros = linalg.fill ins(%zero : f32) outs(%et : tensor<2x5x1xf32>) -> tensor<2x5x1xf32>
  %m:2 = linalg.generic {indexing_maps = [#whole, #reduced, #reduced],
      iterator_types = ["parallel", "parallel", "reduction"]}
      ins(%x : tensor<2x5x40xf32>) outs(%start, %places : tensor<2x5xf32>, tensor<2x5xi64>) {
  ^bb0(%in: f32, %out: f32, %place: i64):
    %n = linalg.index 2 : index
    %i = arith.index_cast %n : index to i64
    %a = arith.maximumf %in, %out : f32
    %b = arith.cmpf ogt, %in, %out : f32
    %c = arith.select %b, %i, %place : i64
    linalg.yield %a, %c : f32, i64
  } -> (tensor<2x5xf32>, tensor<2x5xi64>)
  %largest = tensor.expand_shape %m#0 [[0], [1, 2]] output_shape [2, 5, 1] : tensor<2x5xf32> into tensor<2x5x1xf32>
  %d = linalg.generic {indexing_maps = [#whole, #row, #whole], iterator_types = ["parallel", "parallel", "parallel"]}
      ins(%x, %largest : tensor<2x5x40xf32>, tensor<2x5x1xf32>) outs(%e : tensor<2x5x40xf32>) {
  ^bb0(%in: f32, %by: f32, %out: f32):
    %a = arith.subf %in, %by : f32
    linalg.yield %a : f32
  } -> tensor<2x5x40xf32>
  %p = linalg.generic {indexing_maps = [#whole, #whole], iterator_types = ["parallel", "parallel", "parallel"]}
      ins(%d : tensor<2x5x40xf32>) outs(%e : tensor<2x5x40xf32>) {
  ^bb0(%in: f32, %out: f32):
    %a = math.exp %in : f32
    linalg.yield %a : f32
  } -> tensor<2x5x40xf32>
  %t = linalg.generic {indexing_maps = [#whole, #row], iterator_types = ["parallel", "parallel", "reduction"]}
      ins(%p : tensor<2x5x40xf32>) outs(%zeros : tensor<2x5x1xf32>) {
  ^bb0(%in: f32, %out: f32):
    %a = arith.addf %in, %out : f32
    linalg.yield %a : f32
  } -> tensor<2x5x1xf32>
  // expected-remark@+1 {{softmax in one dispatch, vectors of 16}}
  %y = linalg.generic {indexing_maps = [#whole, #row, #whole], iterator_types = ["parallel", "parallel", "parallel"]}
      ins(%p, %t : tensor<2x5x40xf32>, tensor<2x5x1xf32>) outs(%e : tensor<2x5x40xf32>) {
  ^bb0(%in: f32, %by: f32, %out: f32):
    %a = arith.divf %in, %by : f32
    linalg.yield %a : f32
  } -> tensor<2x5x40xf32>
  return %y : tensor<2x5x40xf32>
}

// -----

// Scores and a mask that is the same for all heads, of any number of rows; a row of which nothing is
// left gives zeros.

#whole = affine_map<(b, r, n) -> (b, r, n)>
#row = affine_map<(b, r, n) -> (b, r, 0)>
#mask = affine_map<(b, r, n) -> (0, r, n)>
#none = affine_map<(b, r, n) -> ()>

// CHECK: hal.executable.source private @softmax_2xdx40_a011z_v16
// CHECK-LABEL: func.func @masked
// CHECK-SAME: (%[[X:.*]]: tensor<2x?x40xf32>, %[[MASK:.*]]: tensor<1x?x40xf32>
// CHECK: %[[Y:.*]] = flow.dispatch @softmax_2xdx40_a011z_v16::@softmax_2xdx40_a011z_v16[{{.*}}](%{{.*}}, %[[X]], %[[MASK]]) : (i32, tensor<2x?x40xf32>{{.*}}, tensor<1x?x40xf32>{{.*}}) -> tensor<2x?x40xf32>
// CHECK-NEXT: return %[[Y]]
func.func @masked(%x: tensor<2x?x40xf32>, %mask: tensor<1x?x40xf32>, %e: tensor<2x?x40xf32>, %start: f32, %et: tensor<2x?x1xf32>, %ec: tensor<2x?x1xi1>) -> tensor<2x?x40xf32> {
  %lowest = arith.constant 0xFF800000 : f32
  %zero = arith.constant 0.0 : f32
  %zeroes = arith.constant dense<0.0> : tensor<f32>
  %ones = arith.constant dense<1.0> : tensor<f32>
  %least = linalg.fill ins(%lowest : f32) outs(%et : tensor<2x?x1xf32>) -> tensor<2x?x1xf32>
  %zeros = linalg.fill ins(%zero : f32) outs(%et : tensor<2x?x1xf32>) -> tensor<2x?x1xf32>
  %s = linalg.generic {indexing_maps = [#whole, #mask, #whole], iterator_types = ["parallel", "parallel", "parallel"]}
      ins(%x, %mask : tensor<2x?x40xf32>, tensor<1x?x40xf32>) outs(%e : tensor<2x?x40xf32>) {
  ^bb0(%in: f32, %by: f32, %out: f32):
    %a = arith.addf %in, %by : f32
    linalg.yield %a : f32
  } -> tensor<2x?x40xf32>
  %m = linalg.generic {indexing_maps = [#whole, #row], iterator_types = ["parallel", "parallel", "reduction"]}
      ins(%s : tensor<2x?x40xf32>) outs(%least : tensor<2x?x1xf32>) {
  ^bb0(%in: f32, %out: f32):
    %a = arith.maximumf %in, %out : f32
    linalg.yield %a : f32
  } -> tensor<2x?x1xf32>
  %nothing = linalg.generic {indexing_maps = [#whole, #whole], iterator_types = ["parallel", "parallel", "parallel"]}
      ins(%m : tensor<2x?x1xf32>) outs(%ec : tensor<2x?x1xi1>) {
  ^bb0(%in: f32, %out: i1):
    %a = arith.cmpf oeq, %in, %lowest : f32
    linalg.yield %a : i1
  } -> tensor<2x?x1xi1>
  %shift = linalg.generic {indexing_maps = [#whole, #none, #whole, #whole], iterator_types = ["parallel", "parallel", "parallel"]}
      ins(%nothing, %zeroes, %m : tensor<2x?x1xi1>, tensor<f32>, tensor<2x?x1xf32>) outs(%et : tensor<2x?x1xf32>) {
  ^bb0(%none: i1, %other: f32, %in: f32, %out: f32):
    %a = arith.select %none, %other, %in : f32
    linalg.yield %a : f32
  } -> tensor<2x?x1xf32>
  %d = linalg.generic {indexing_maps = [#whole, #row, #whole], iterator_types = ["parallel", "parallel", "parallel"]}
      ins(%s, %shift : tensor<2x?x40xf32>, tensor<2x?x1xf32>) outs(%e : tensor<2x?x40xf32>) {
  ^bb0(%in: f32, %by: f32, %out: f32):
    %a = arith.subf %in, %by : f32
    linalg.yield %a : f32
  } -> tensor<2x?x40xf32>
  %p = linalg.generic {indexing_maps = [#whole, #whole], iterator_types = ["parallel", "parallel", "parallel"]}
      ins(%d : tensor<2x?x40xf32>) outs(%e : tensor<2x?x40xf32>) {
  ^bb0(%in: f32, %out: f32):
    %a = math.exp %in : f32
    linalg.yield %a : f32
  } -> tensor<2x?x40xf32>
  %t = linalg.generic {indexing_maps = [#whole, #row], iterator_types = ["parallel", "parallel", "reduction"]}
      ins(%p : tensor<2x?x40xf32>) outs(%zeros : tensor<2x?x1xf32>) {
  ^bb0(%in: f32, %out: f32):
    %a = arith.addf %out, %in : f32
    linalg.yield %a : f32
  } -> tensor<2x?x1xf32>
  %sum = linalg.generic {indexing_maps = [#whole, #none, #whole, #whole], iterator_types = ["parallel", "parallel", "parallel"]}
      ins(%nothing, %ones, %t : tensor<2x?x1xi1>, tensor<f32>, tensor<2x?x1xf32>) outs(%et : tensor<2x?x1xf32>) {
  ^bb0(%none: i1, %other: f32, %in: f32, %out: f32):
    %a = arith.select %none, %other, %in : f32
    linalg.yield %a : f32
  } -> tensor<2x?x1xf32>
  // expected-remark@+1 {{softmax of a masked product in one dispatch, vectors of 16}}
  %y = linalg.generic {indexing_maps = [#whole, #row, #whole], iterator_types = ["parallel", "parallel", "parallel"]}
      ins(%p, %sum : tensor<2x?x40xf32>, tensor<2x?x1xf32>) outs(%e : tensor<2x?x40xf32>) {
  ^bb0(%in: f32, %by: f32, %out: f32):
    %a = arith.divf %in, %by : f32
    linalg.yield %a : f32
  } -> tensor<2x?x40xf32>
  return %y : tensor<2x?x40xf32>
}

// -----

// Exponentials over their sum without a shift: as good for small numbers, but no softmax of ours.

#whole = affine_map<(r, n) -> (r, n)>
#row = affine_map<(r, n) -> (r, 0)>

// CHECK-LABEL: func.func @not_shifted
// CHECK-NOT: flow.dispatch
func.func @not_shifted(%x: tensor<5x40xf32>, %e: tensor<5x40xf32>, %zeros: tensor<5x1xf32>) -> tensor<5x40xf32> {
  %zero = arith.constant 0.0 : f32
  %start = linalg.fill ins(%zero : f32) outs(%zeros : tensor<5x1xf32>) -> tensor<5x1xf32>
  %p = linalg.generic {indexing_maps = [#whole, #whole], iterator_types = ["parallel", "parallel"]}
      ins(%x : tensor<5x40xf32>) outs(%e : tensor<5x40xf32>) {
  ^bb0(%in: f32, %out: f32):
    %a = math.exp %in : f32
    linalg.yield %a : f32
  } -> tensor<5x40xf32>
  %t = linalg.generic {indexing_maps = [#whole, #row], iterator_types = ["parallel", "reduction"]}
      ins(%p : tensor<5x40xf32>) outs(%start : tensor<5x1xf32>) {
  ^bb0(%in: f32, %out: f32):
    %a = arith.addf %in, %out : f32
    linalg.yield %a : f32
  } -> tensor<5x1xf32>
  // expected-remark@+1 {{softmax has no kernel: nothing is taken from its exponents}}
  %y = linalg.generic {indexing_maps = [#whole, #row, #whole], iterator_types = ["parallel", "parallel"]}
      ins(%p, %t : tensor<5x40xf32>, tensor<5x1xf32>) outs(%e : tensor<5x40xf32>) {
  ^bb0(%in: f32, %by: f32, %out: f32):
    %a = arith.divf %in, %by : f32
    linalg.yield %a : f32
  } -> tensor<5x40xf32>
  return %y : tensor<5x40xf32>
}

// -----

// A sum that starts at one (softmax plus one).

#whole = affine_map<(r, n) -> (r, n)>
#row = affine_map<(r, n) -> (r, 0)>

// CHECK-LABEL: func.func @another_sum
// CHECK-NOT: flow.dispatch
func.func @another_sum(%x: tensor<5x40xf32>, %e: tensor<5x40xf32>, %zeros: tensor<5x1xf32>) -> tensor<5x40xf32> {
  %one = arith.constant 1.0 : f32
  %start = linalg.fill ins(%one : f32) outs(%zeros : tensor<5x1xf32>) -> tensor<5x1xf32>
  %p = linalg.generic {indexing_maps = [#whole, #whole], iterator_types = ["parallel", "parallel"]}
      ins(%x : tensor<5x40xf32>) outs(%e : tensor<5x40xf32>) {
  ^bb0(%in: f32, %out: f32):
    %a = math.exp %in : f32
    linalg.yield %a : f32
  } -> tensor<5x40xf32>
  %t = linalg.generic {indexing_maps = [#whole, #row], iterator_types = ["parallel", "reduction"]}
      ins(%p : tensor<5x40xf32>) outs(%start : tensor<5x1xf32>) {
  ^bb0(%in: f32, %out: f32):
    %a = arith.addf %in, %out : f32
    linalg.yield %a : f32
  } -> tensor<5x1xf32>
  // expected-remark@+1 {{softmax has no kernel: it divides by something else than their sum over the last dimension}}
  %y = linalg.generic {indexing_maps = [#whole, #row, #whole], iterator_types = ["parallel", "parallel"]}
      ins(%p, %t : tensor<5x40xf32>, tensor<5x1xf32>) outs(%e : tensor<5x40xf32>) {
  ^bb0(%in: f32, %by: f32, %out: f32):
    %a = arith.divf %in, %by : f32
    linalg.yield %a : f32
  } -> tensor<5x40xf32>
  return %y : tensor<5x40xf32>
}
