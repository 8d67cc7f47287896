// RUN: lowc opt %s --split-input-file --verify-diagnostics --pass-pipeline='builtin.module(lowc-name-matmuls,lowc-assign-forms{rules="[{\"match\":\"lmul*\",\"form\":\"lmul\"},{\"match\":\"full\",\"form\":\"pam\",\"specials\":\"full\"},{\"match\":\"gain\",\"form\":\"pam\",\"gain\":true},{\"match\":\"f8*\",\"form\":\"pam\",\"weights\":\"f8E5M2\"},{\"match\":\"*\",\"form\":\"pam\",\"of\":\"elementwise\",\"specials\":\"full\"},{\"match\":\"*\",\"form\":\"pam\"}]"},lowc-lower-pam,canonicalize,cse,symbol-dce)' | filecheck %s
// RUN: lowc opt %s --split-input-file --pass-pipeline='builtin.module(lowc-lower-pam{mantissa-bits=4},canonicalize)' 2>/dev/null | filecheck %s --check-prefix=DEFAULT

// A matmul that no recipe gave a form takes that of the options.
// DEFAULT-LABEL: func.func @linear
// DEFAULT: linalg.generic {{.*}} ins(%arg0 : tensor<2x32xf32>) {{.*}}lowc.prepared = "1065353216"
// DEFAULT: %[[CLAMPED:.*]] = arith.minui
// DEFAULT: arith.andi %[[CLAMPED]], %c2146959360_i32 : i32
// DEFAULT: util.global.load @fc.weight.f32m4
// DEFAULT: linalg.generic {{.*}}lowc.lowering = "f32 patterns added, 4 mantissa bits, finite specials"
// DEFAULT: arith.addi

// The constant is the pattern of 1, 0x3F800000: there is no offset.

// CHECK: util.global private @[[BITS:fc.weight.f32m23.v[0-9a-f]*.bits]] {lowc.derivation = {kind = "additive", {{.*}}source = "fc.weight", storage = "f32"}}
util.global private @fc.weight = #flow.parameter.named<"model"::"fc.weight"> : tensor<8x32xf32>
// CHECK-LABEL: func.func @linear
func.func @linear(%x: tensor<2x32xf32>, %e: tensor<32x8xf32>, %o: tensor<2x8xf32>)
    -> tensor<2x8xf32> {
  // CHECK: %[[P:.*]] = linalg.generic {{.*}} ins(%arg0 : tensor<2x32xf32>) {{.*}}lowc.prepared = "1065353216"
  // CHECK: %[[M:.*]] = arith.andi %{{.*}}, %c2147483647_i32 : i32
  // CHECK: %[[L:.*]] = arith.maxui %[[M]], %c536870912_i32 : i32
  // CHECK: %[[H:.*]] = arith.minui %[[L]], %c1593835519_i32 : i32
  // CHECK: %[[W:.*]] = arith.ori %{{.*}}, %[[H]] : i32
  // CHECK: arith.subi %[[W]], %c1065353216_i32 : i32
  // CHECK: %[[Q:.*]] = util.global.load @[[BITS]] : tensor<32x8xi32>
  // CHECK: linalg.generic {{.*}} ins(%[[P]], %[[Q]] : tensor<2x32xi32>, tensor<32x8xi32>)
  // CHECK-SAME: form = "pam"
  // CHECK-SAME: \22constant\22: 1065353216
  // CHECK: %[[SUM:.*]] = arith.addi
  // CHECK-NEXT: %[[F:.*]] = arith.bitcast %[[SUM]] : i32 to f32
  // CHECK-NEXT: arith.addf %{{.*}}, %[[F]] : f32
  %zero = arith.constant 0.0 : f32
  %fill = linalg.fill ins(%zero : f32) outs(%o : tensor<2x8xf32>) -> tensor<2x8xf32>
  %w = util.global.load @fc.weight : tensor<8x32xf32>
  %t = linalg.transpose ins(%w : tensor<8x32xf32>) outs(%e : tensor<32x8xf32>) permutation = [1, 0]
  // expected-remark@below {{fc: f32 patterns added, 23 mantissa bits, finite specials}}
  %y = linalg.matmul ins(%x, %t : tensor<2x32xf32>, tensor<32x8xf32>)
      outs(%fill : tensor<2x8xf32>) -> tensor<2x8xf32>
  return %y : tensor<2x8xf32>
}

// -----
// Two activations: the constant is subtracted from the left one only.

// CHECK-LABEL: func.func @two_activations
func.func @two_activations(%a: tensor<3x?x4xf32>, %b: tensor<3x4x5xf32>, %o: tensor<3x?x5xf32>)
    -> tensor<3x?x5xf32> {
  // CHECK: linalg.generic {{.*}} ins(%arg0 : tensor<3x?x4xf32>) {{.*}}lowc.prepared = "1065353216"
  // CHECK: arith.subi
  // CHECK: linalg.generic {{.*}} ins(%arg1 : tensor<3x4x5xf32>) {{.*}}lowc.prepared = "0"
  // CHECK-NOT: arith.subi
  // CHECK: linalg.generic {{.*}} : tensor<3x?x4xi32>, tensor<3x4x5xi32>) outs(%{{.*}} : tensor<3x?x5xf32>)
  // CHECK: arith.addi
  %zero = arith.constant 0.0 : f32
  %fill = linalg.fill ins(%zero : f32) outs(%o : tensor<3x?x5xf32>) -> tensor<3x?x5xf32>
  // expected-remark@below {{two_activations:0: f32 patterns added}}
  %y = linalg.batch_matmul ins(%a, %b : tensor<3x?x4xf32>, tensor<3x4x5xf32>)
      outs(%fill : tensor<3x?x5xf32>) -> tensor<3x?x5xf32>
  return %y : tensor<3x?x5xf32>
}

// -----
// A gain is that of this product, 1 / 0.9618; fp8 of two mantissa bits is moved up by 21 bits; full
// specials subtract the pattern of 1 in the body.

util.global private @gain.weight = #flow.parameter.named<"model"::"gain.weight"> : tensor<4x8xf32>
util.global private @f8.weight = #flow.parameter.named<"model"::"f8.weight"> : tensor<4x8xf32>
util.global private @full.weight = #flow.parameter.named<"model"::"full.weight"> : tensor<4x8xf32>
// CHECK-LABEL: func.func @options
func.func @options(%x: tensor<2x4xf32>, %o: tensor<2x8xf32>)
    -> (tensor<2x8xf32>, tensor<2x8xf32>, tensor<2x8xf32>) {
  // CHECK-DAG: %[[GAIN:.*]] = arith.constant 1.0397{{.*}} : f32
  // CHECK: linalg.generic {{.*}}finite specials, gain corrected"
  // CHECK: arith.mulf %in, %[[GAIN]] : f32
  // CHECK: linalg.generic {{.*}} : tensor<2x4xi32>, tensor<4x8xi8>)
  // CHECK-SAME: weight as f8E5M2
  // CHECK: %[[UP:.*]] = arith.shli %{{.*}}, %c21_i32 : i32
  // CHECK: arith.addi %[[UP]], %c939524096_i32 : i32
  // CHECK: linalg.generic {{.*}} ins(%arg0, %{{.*}} : tensor<2x4xf32>, tensor<4x8xf32>)
  // CHECK-SAME: full specials
  // CHECK: arith.subi %{{.*}}, %c1065353216_i32 : i32
  // CHECK: arith.addf
  %zero = arith.constant 0.0 : f32
  %fill = linalg.fill ins(%zero : f32) outs(%o : tensor<2x8xf32>) -> tensor<2x8xf32>
  %w = util.global.load @gain.weight : tensor<4x8xf32>
  // expected-remark@below {{gain: f32 patterns added, 23 mantissa bits, finite specials, gain corrected}}
  %0 = linalg.matmul ins(%x, %w : tensor<2x4xf32>, tensor<4x8xf32>)
      outs(%fill : tensor<2x8xf32>) -> tensor<2x8xf32>
  %v = util.global.load @f8.weight : tensor<4x8xf32>
  // expected-remark@below {{f8: f32 patterns added, 23 mantissa bits, finite specials, weight as f8E5M2}}
  %1 = linalg.matmul ins(%x, %v : tensor<2x4xf32>, tensor<4x8xf32>)
      outs(%fill : tensor<2x8xf32>) -> tensor<2x8xf32>
  %u = util.global.load @full.weight : tensor<4x8xf32>
  // expected-remark@below {{full: f32 patterns added, 23 mantissa bits, full specials}}
  %2 = linalg.matmul ins(%x, %u : tensor<2x4xf32>, tensor<4x8xf32>)
      outs(%fill : tensor<2x8xf32>) -> tensor<2x8xf32>
  return %0, %1, %2 : tensor<2x8xf32>, tensor<2x8xf32>, tensor<2x8xf32>
}

// -----
// Outside matmuls, in the type itself, and in 32 bits where it is narrow.  Not even a
// multiplication by one goes away: it flushes subnormal numbers.

// CHECK-LABEL: func.func @elementwise
func.func @elementwise(%x: tensor<4xf8E4M3FN>, %e: tensor<4xf8E4M3FN>) -> tensor<4xf8E4M3FN> {
  // CHECK: linalg.generic {{.*}}lowc.lowering = "1 multiplications by added patterns, full specials", lowc.matmul = "times:mul"
  // CHECK-NOT: arith.mulf
  // CHECK: %[[B:.*]] = arith.bitcast %in : f8E4M3FN to i8
  // CHECK: arith.extui %[[B]] : i8 to i32
  // CHECK: %[[SUM:.*]] = arith.addi %{{.*}} : i32
  // CHECK: arith.select
  // CHECK: %[[R:.*]] = arith.trunci %{{.*}} : i32 to i8
  // CHECK: arith.bitcast %[[R]] : i8 to f8E4M3FN
  // expected-remark@unknown {{times:mul: 1 multiplications by added patterns, full specials}}
  %one = arith.constant 1.0 : f8E4M3FN
  %y = linalg.generic {indexing_maps = [affine_map<(i) -> (i)>, affine_map<(i) -> (i)>],
                       iterator_types = ["parallel"]}
      ins(%x : tensor<4xf8E4M3FN>) outs(%e : tensor<4xf8E4M3FN>) {
  ^bb0(%in: f8E4M3FN, %out: f8E4M3FN):
    %p = arith.mulf %in, %one : f8E4M3FN
    linalg.yield %p : f8E4M3FN
  } -> tensor<4xf8E4M3FN> loc("times")
  return %y : tensor<4xf8E4M3FN>
}

// -----
// Not its business: a matmul of the form lmul.  Refused: integers, and storage of no weight.

// CHECK-LABEL: func.func @others
func.func @others(%x: tensor<2x4xf32>, %v: tensor<4x8xf32>, %o: tensor<2x8xf32>,
                  %i: tensor<2x4xi32>, %j: tensor<4x8xi32>, %k: tensor<2x8xi32>)
    -> (tensor<2x8xf32>, tensor<2x8xi32>, tensor<2x8xf32>) {
  // CHECK: linalg.matmul {lowc.form = {{.*}}form = "lmul"
  // CHECK: linalg.matmul {{.*}}lowc.lowering = "exact (it is on i32;
  // CHECK: linalg.generic {{.*}}lowc.lowering = "f32 patterns added, 23 mantissa bits, finite specials", lowc.matmul = "f8:0"
  // expected-remark@unknown {{others:0: not rewritten: it is on i32; bit patterns are added of f32,}}
  // expected-remark@unknown {{f8:0: f32 patterns added, 23 mantissa bits, finite specials}}
  %0 = linalg.matmul ins(%x, %v : tensor<2x4xf32>, tensor<4x8xf32>)
      outs(%o : tensor<2x8xf32>) -> tensor<2x8xf32> loc("lmul")
  %1 = linalg.matmul ins(%i, %j : tensor<2x4xi32>, tensor<4x8xi32>)
      outs(%k : tensor<2x8xi32>) -> tensor<2x8xi32> loc("others")
  %2 = linalg.matmul ins(%x, %v : tensor<2x4xf32>, tensor<4x8xf32>)
      outs(%o : tensor<2x8xf32>) -> tensor<2x8xf32> loc("f8")
  return %0, %1, %2 : tensor<2x8xf32>, tensor<2x8xi32>, tensor<2x8xf32>
}
