// RUN: lowc opt %s --split-input-file --verify-diagnostics --pass-pipeline='builtin.module(lowc-name-matmuls,lowc-assign-forms{rules="[{\"match\":\"integers*\",\"form\":\"lut\",\"weights\":\"i3\",\"group\":64,\"symmetric\":false},{\"match\":\"odd*\",\"form\":\"binary\",\"method\":\"bcq\",\"planes\":1,\"group\":8,\"outputs\":0,\"terms\":1,\"tables\":\"i6\"},{\"match\":\"sums*\",\"form\":\"binary\",\"method\":\"bcq\",\"planes\":2,\"tables\":\"none\"},{\"match\":\"*\",\"form\":\"binary\",\"method\":\"bcq\",\"planes\":2,\"group\":64,\"span\":32}]"},lowc-lower-lut,lowc-verify-no-multiplication,canonicalize,cse)' | filecheck %s
// RUN: lowc opt %s --split-input-file --pass-pipeline='builtin.module(lowc-name-matmuls,lowc-assign-forms{rules="[{\"match\":\"sums*\",\"form\":\"binary\",\"method\":\"bcq\",\"planes\":2,\"tables\":\"none\"},{\"match\":\"*\",\"form\":\"binary\",\"method\":\"bcq\",\"planes\":2,\"group\":64,\"span\":32}]"},lowc-lower-lut{packing=words},canonicalize,cse)' | filecheck %s --check-prefix=WORDS

// Entries in words: they are neither cut to bytes nor extended.
// WORDS-LABEL: func.func @linear
// WORDS-NOT: i8
// WORDS: tensor.extract %{{.*}} : tensor<2x2x8x16xi32>

// Tables, largest magnitudes, exponents and entries of the activation; sums of looked up entries,
// scaled; sums of the spans of a group, shifted by the terms of a scale.

util.global private @fc.weight = #flow.parameter.named<"model"::"fc.weight"> : tensor<8x64xf32>
// CHECK-LABEL: func.func @linear
// CHECK-SAME: (%[[X:.*]]: tensor<2x64xf32>)
func.func @linear(%x: tensor<2x64xf32>) -> tensor<2x8xf32> {
  // CHECK-DAG: %[[ZERO:.*]] = arith.constant 0 : i32
  // CHECK-DAG: %[[MASK:.*]] = arith.constant 2147483647 : i32
  // CHECK-DAG: %[[C23:.*]] = arith.constant 23 : i32
  // CHECK-DAG: %[[UP:.*]] = arith.constant 131071 : i32
  // CHECK-DAG: %[[BIAS:.*]] = arith.constant -37 : i32
  // CHECK-DAG: %[[BROKEN:.*]] = arith.constant 255 : i32
  // CHECK-DAG: %[[FIFTEEN:.*]] = arith.constant 15 : i32
  // CHECK-DAG: %[[ROUND:.*]] = arith.constant 0x4B400000 : f32
  // CHECK-DAG: %[[NAN:.*]] = arith.constant 0x7FC00000 : f32
  // CHECK: %[[Q:.*]] = tensor.expand_shape %[[X]] {{\[\[}}0], [1, 2]] {{.*}} into tensor<2x16x4xf32>
  // CHECK: %[[F:.*]] = linalg.generic {{.*}}["parallel", "parallel", "parallel", "reduction"]} ins(%[[Q]] : tensor<2x16x4xf32>) outs(%{{.*}} : tensor<2x16x16xf32>) attrs = {lowc.prepared = "tables"}
  // CHECK: arith.xori
  // CHECK: arith.addf
  // CHECK: %[[S:.*]] = tensor.expand_shape %[[F]] {{.*}} into tensor<2x2x8x16xf32>
  // CHECK: %[[P:.*]] = linalg.generic {{.*}}["parallel", "parallel", "reduction", "reduction"]} ins(%[[S]] : tensor<2x2x8x16xf32>) outs(%{{.*}} : tensor<2x2xi32>) attrs = {lowc.prepared = "tables"}
  // CHECK: arith.andi %{{.*}}, %[[MASK]] : i32
  // CHECK: arith.maxui
  // CHECK: %[[E:.*]] = linalg.generic {{.*}} ins(%[[P]] : tensor<2x2xi32>) {{.*}}lowc.prepared = "tables"
  // CHECK: arith.addi %{{.*}}, %[[UP]] : i32
  // CHECK: arith.shrui %{{.*}}, %[[C23]] : i32
  // CHECK: arith.addi %{{.*}}, %[[BIAS]] : i32
  // CHECK: arith.cmpi ult
  // CHECK: arith.cmpi uge
  // CHECK: arith.select %{{.*}}, %[[BROKEN]], %{{.*}} : i32
  // CHECK: %[[T:.*]] = linalg.generic {{.*}} ins(%[[S]], %[[E]] : tensor<2x2x8x16xf32>, tensor<2x2xi32>) outs(%{{.*}} : tensor<2x2x8x16xi8>) attrs = {lowc.prepared = "tables"}
  // CHECK: arith.maxsi %{{.*}}, %[[ZERO]] : i32
  // CHECK: arith.addf %{{.*}}, %[[ROUND]] : f32
  // CHECK: arith.trunci %{{.*}} : i32 to i8
  // CHECK: %[[B:.*]] = util.global.load @fc.weight.b2g64o1t3.signs : tensor<8x2x2xi32>
  // CHECK: %[[I:.*]] = linalg.generic {{.*}} ins(%[[B]] : tensor<8x2x2xi32>) outs(%{{.*}} : tensor<2x8x2x2xi32>) attrs = {lowc.part = "fc"}
  // CHECK: ^bb0(%[[WORD:.*]]: i32, %{{.*}}: i32):
  // CHECK: arith.andi %[[WORD]], %[[FIFTEEN]] : i32
  // CHECK-COUNT-8: tensor.extract %[[T]][%{{.*}}, %{{.*}}, %{{.*}}, %{{.*}}] : tensor<2x2x8x16xi8>
  // CHECK-NOT: tensor.extract
  // CHECK: %[[SCALED:.*]] = linalg.generic {{.*}} ins(%[[I]], %[[E]] : tensor<2x8x2x2xi32>, tensor<2x2xi32>) outs(%{{.*}} : tensor<2x8x2x2xf32>) attrs = {lowc.part = "fc"}
  // CHECK: arith.sitofp
  // CHECK: arith.cmpi eq, %{{.*}}, %[[BROKEN]] : i32
  // CHECK: arith.select %{{.*}}, %[[NAN]], %{{.*}} : f32
  // CHECK: %[[SPANS:.*]] = tensor.expand_shape %[[SCALED]] {{.*}} into tensor<2x8x1x2x2xf32>
  // CHECK: linalg.generic {{.*}} ins(%[[SPANS]] : tensor<2x8x1x2x2xf32>) outs(%{{.*}} : tensor<2x8x1x2xf32>) attrs = {lowc.part = "fc"}
  // CHECK: %[[Y:.*]] = linalg.generic {{.*}} : tensor<2x8x2xf32>, tensor<8x2xi32>) outs(%{{.*}} : tensor<2x8xf32>)
  // CHECK-SAME: lowc.lowering = "2 planes of signs, groups of 64, scales of 3 powers of two; tables of i8 in spans of 32", lowc.matmul = "fc", lowc.product = "{\22kind\22: \22tables\22, \22planes\22: 2, \22group\22: 64, \22outputs\22: 1, \22terms\22: 3, \22k\22: 64, \22entry_bits\22: 8, \22span\22: 32}"
  // CHECK: return %[[Y]]
  %w = util.global.load @fc.weight : tensor<8x64xf32>
  %c = arith.constant 0.0 : f32
  %i = tensor.empty() : tensor<2x8xf32>
  %init = linalg.fill ins(%c : f32) outs(%i : tensor<2x8xf32>) -> tensor<2x8xf32>
  %e = tensor.empty() : tensor<64x8xf32>
  %t = linalg.transpose ins(%w : tensor<8x64xf32>) outs(%e : tensor<64x8xf32>) permutation = [1, 0]
  // expected-remark@below {{fc: 2 planes of signs, groups of 64, scales of 3 powers of two; tables of i8 in spans of 32, 3 bits a weight}}
  %y = linalg.matmul ins(%x, %t : tensor<2x64xf32>, tensor<64x8xf32>)
      outs(%init : tensor<2x8xf32>) -> tensor<2x8xf32>
  return %y : tensor<2x8xf32>
}

// -----
// Spans shorter than a word, rows known at run time, K filled up to whole words: four spans of a
// word, two look-ups each.

util.global private @odd.weight = #flow.parameter.named<"model"::"odd.weight"> : tensor<37x8xf32>
// CHECK-LABEL: func.func @odd
func.func @odd(%x: tensor<?x37xf32>, %init: tensor<?x8xf32>) -> tensor<?x8xf32> {
  // CHECK-DAG: arith.constant 524287 : i32
  // CHECK: tensor.pad %{{.*}} low[0, 0] high[0, 27]
  // CHECK: linalg.generic {{.*}} outs(%{{.*}} : tensor<?x8x2x16xi8>)
  // CHECK: linalg.generic {{.*}} ins(%{{.*}} : tensor<8x1x2xi32>) outs(%{{.*}} : tensor<?x8x2x4x1xi32>)
  // CHECK-COUNT-2: tensor.extract
  // CHECK-NOT: tensor.extract
  // CHECK: tensor.collapse_shape %{{.*}} : tensor<?x8x2x4x1xi32> into tensor<?x8x8x1xi32>
  // CHECK: tensor.pad %{{.*}} low[0, 0] high[3, 0]
  // CHECK: linalg.generic {{.*}} : tensor<?x8x8xf32>, tensor<8xi32>) outs(%{{.*}} : tensor<?x8xf32>)
  %w = util.global.load @odd.weight : tensor<37x8xf32>
  // expected-remark@below {{odd: 1 plane of signs, groups of 8 x 8 outputs, scales of 1 power of two; tables of i6 in spans of 8}}
  %y = linalg.matmul ins(%x, %w : tensor<?x37xf32>, tensor<37x8xf32>)
      outs(%init : tensor<?x8xf32>) -> tensor<?x8xf32>
  return %y : tensor<?x8xf32>
}

// -----
// Two products of one activation have one set of tables, whatever their weights' layouts.

util.global private @q = #flow.parameter.named<"model"::"q"> : tensor<64x8xf32>
util.global private @k = #flow.parameter.named<"model"::"k"> : tensor<8x64xf32>
// CHECK-LABEL: func.func @shared
// CHECK-COUNT-4: lowc.prepared = "tables"
// CHECK-NOT: lowc.prepared
func.func @shared(%x: tensor<2x64xf32>, %init: tensor<2x8xf32>) -> (tensor<2x8xf32>, tensor<2x8xf32>) {
  %q = util.global.load @q : tensor<64x8xf32>
  %k = util.global.load @k : tensor<8x64xf32>
  // expected-remark@below {{q: 2 planes of signs}}
  %0 = linalg.matmul ins(%x, %q : tensor<2x64xf32>, tensor<64x8xf32>)
      outs(%init : tensor<2x8xf32>) -> tensor<2x8xf32>
  %e = tensor.empty() : tensor<64x8xf32>
  %t = linalg.transpose ins(%k : tensor<8x64xf32>) outs(%e : tensor<64x8xf32>) permutation = [1, 0]
  // expected-remark@below {{k: 2 planes of signs}}
  %1 = linalg.matmul ins(%x, %t : tensor<2x64xf32>, tensor<64x8xf32>)
      outs(%init : tensor<2x8xf32>) -> tensor<2x8xf32>
  return %0, %1 : tensor<2x8xf32>, tensor<2x8xf32>
}

// -----
// The weight on the left, with a batch: K is not the activation's last dimension.

util.global private @experts = #flow.parameter.named<"model"::"experts"> : tensor<3x8x64xf32>
// CHECK-LABEL: func.func @batch_on_the_left
func.func @batch_on_the_left(%x: tensor<3x64x2xf32>, %init: tensor<3x8x2xf32>) -> tensor<3x8x2xf32> {
  // CHECK: linalg.generic {{.*}} outs(%{{.*}} : tensor<3x2x8x16x2xi8>)
  // CHECK: linalg.generic {{.*}} ins(%{{.*}} : tensor<3x8x2x2xi32>) outs(%{{.*}} : tensor<3x8x2x2x2xi32>)
  // CHECK: tensor.extract %{{.*}}[%{{.*}}, %{{.*}}, %{{.*}}, %{{.*}}, %{{.*}}] : tensor<3x2x8x16x2xi8>
  // CHECK: linalg.generic {{.*}} : tensor<3x8x2x2xf32>, tensor<3x8x2xi32>) outs(%{{.*}} : tensor<3x8x2xf32>)
  %w = util.global.load @experts : tensor<3x8x64xf32>
  // expected-remark@below {{experts: 2 planes of signs}}
  %y = linalg.batch_matmul ins(%w, %x : tensor<3x8x64xf32>, tensor<3x64x2xf32>)
      outs(%init : tensor<3x8x2xf32>) -> tensor<3x8x2xf32>
  return %y : tensor<3x8x2xf32>
}

// -----
// Integers, looked up bit by bit: sums of planes shifted by the place of the bit, less the zero point
// times the sum of all, and one multiplication by a scale per group.

util.global private @integers.weight = #flow.parameter.named<"model"::"integers.weight"> : tensor<128x8xf32>
// CHECK-LABEL: func.func @integers
func.func @integers(%x: tensor<2x128xf32>, %init: tensor<2x8xf32>) -> tensor<2x8xf32> {
  // CHECK: %[[B:.*]] = util.global.load @integers.weight.pi3g64z{{.*}}.signs : tensor<8x3x4xi32>
  // CHECK: %[[P:.*]] = linalg.generic {{.*}} outs(%{{.*}} : tensor<2x8x2x3xi32>) attrs = {lowc.part = "integers"}
  // CHECK: %[[D:.*]] = linalg.generic {{.*}} ins(%[[P]] : tensor<2x8x2x3xi32>) outs(%{{.*}} : tensor<2x8x2x1xi32>) attrs = {lowc.part = "integers"}
  // CHECK: arith.shli
  // CHECK: %[[O:.*]] = linalg.generic {{.*}} outs(%{{.*}} : tensor<2x2xi32>) attrs = {lowc.prepared = "tables"}
  // CHECK-COUNT-16: tensor.extract
  // CHECK: util.global.load @integers.weight.pi3g64z{{.*}}.zeros : tensor<8x2xi32>
  // CHECK: linalg.generic {{.*}} outs(%{{.*}} : tensor<2x8x2x1x1xf32>) attrs = {lowc.part = "integers"}
  // CHECK: arith.muli
  // CHECK: arith.subi
  // CHECK: arith.sitofp
  // CHECK: %[[S:.*]] = util.global.load @integers.weight.pi3g64z{{.*}}.scales : tensor<8x2xf32>
  // CHECK: linalg.generic {{.*}} ins(%{{.*}}, %[[S]] : tensor<2x8x2xf32>, tensor<8x2xf32>)
  // CHECK-SAME: lowc.lowering = "i3 with zero points in groups of 64; tables of i8 in spans of 64"
  // CHECK: arith.mulf
  // CHECK: arith.addf
  %w = util.global.load @integers.weight : tensor<128x8xf32>
  // expected-remark@below {{integers: i3 with zero points in groups of 64; tables of i8 in spans of 64, 4 bits a weight}}
  %y = linalg.matmul ins(%x, %w : tensor<2x128xf32>, tensor<128x8xf32>)
      outs(%init : tensor<2x8xf32>) -> tensor<2x8xf32>
  return %y : tensor<2x8xf32>
}

// -----
// Refused: a product of two activations.  Signed sums are another pass's.

util.global private @sums = #flow.parameter.named<"model"::"sums"> : tensor<128x8xf32>
// CHECK-LABEL: func.func @refused
func.func @refused(%a: tensor<2x16xf32>, %b: tensor<16x8xf32>, %j: tensor<2x8xf32>, %t: tensor<2x128xf32>)
    -> (tensor<2x8xf32>, tensor<2x8xf32>) {
  // CHECK: lowc.lowering = "exact (a product of two activations has no weight)"
  // CHECK: linalg.matmul {{{.*}}lowc.matmul = "sums"
  // expected-remark@below {{refused:0: not rewritten: a product of two activations has no weight}}
  %1 = linalg.matmul ins(%a, %b : tensor<2x16xf32>, tensor<16x8xf32>)
      outs(%j : tensor<2x8xf32>) -> tensor<2x8xf32>
  %u = util.global.load @sums : tensor<128x8xf32>
  %3 = linalg.matmul ins(%t, %u : tensor<2x128xf32>, tensor<128x8xf32>)
      outs(%j : tensor<2x8xf32>) -> tensor<2x8xf32>
  return %1, %3 : tensor<2x8xf32>, tensor<2x8xf32>
}
