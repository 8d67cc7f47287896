// RUN: lowc opt %s --split-input-file --verify-diagnostics --pass-pipeline='builtin.module(lowc-count-operations)' | sed 's/\\22//g' | filecheck %s

// A named operation carries its body too.  Filling an accumulator is neither work nor traffic.

// CHECK: module attributes {lowc.operations = "{operations:{addf.f32:64,mulf.f32:64},weight_bits:0,read_bits:1280,written_bits:512}"}
// CHECK-LABEL: func.func @matmul
func.func @matmul(%x: tensor<2x4xf32>, %w: tensor<4x8xf32>) -> tensor<2x8xf32> {
  %zero = arith.constant 0.0 : f32
  %e = tensor.empty() : tensor<2x8xf32>
  // CHECK: linalg.fill ins
  %i = linalg.fill ins(%zero : f32) outs(%e : tensor<2x8xf32>) -> tensor<2x8xf32>
  // CHECK: linalg.matmul {lowc.operations = "{operations:{addf.f32:64,mulf.f32:64},weight_bits:0,read_bits:1280,written_bits:512}"}
  %y = linalg.matmul ins(%x, %w : tensor<2x4xf32>, tensor<4x8xf32>)
      outs(%i : tensor<2x8xf32>) -> tensor<2x8xf32>
  return %y : tensor<2x8xf32>
}

// -----
// L-Mul: one integer addition for each multiplication, and the sum.  Bitcasts are free.

// CHECK-LABEL: func.func @lmul
func.func @lmul(%x: tensor<2x4xf32>, %w: tensor<8x4xf32>) -> tensor<2x8xf32> {
  %zero = arith.constant 0.0 : f32
  %e = tensor.empty() : tensor<2x8xf32>
  %i = linalg.fill ins(%zero : f32) outs(%e : tensor<2x8xf32>) -> tensor<2x8xf32>
  // CHECK: linalg.generic
  // CHECK-SAME: lowc.operations = "{operations:{addf.f32:64,addi.i32:64},weight_bits:0,read_bits:1280,written_bits:512}"
  %y = linalg.generic {
    indexing_maps = [affine_map<(m, n, k) -> (m, k)>, affine_map<(m, n, k) -> (n, k)>,
                     affine_map<(m, n, k) -> (m, n)>],
    iterator_types = ["parallel", "parallel", "reduction"]}
    ins(%x, %w : tensor<2x4xf32>, tensor<8x4xf32>) outs(%i : tensor<2x8xf32>) {
  ^bb0(%a: f32, %b: f32, %acc: f32):
    %0 = arith.bitcast %a : f32 to i32
    %1 = arith.bitcast %b : f32 to i32
    %2 = arith.addi %0, %1 : i32
    %3 = arith.bitcast %2 : i32 to f32
    %4 = arith.addf %acc, %3 : f32
    linalg.yield %4 : f32
  } -> tensor<2x8xf32>
  return %y : tensor<2x8xf32>
}

// -----
// Kinds: comparisons have one name, a select has the type of what it selects, a conversion that of
// its operand, fma is two, index arithmetic none; an unknown operation has its own name.

// CHECK-LABEL: func.func @kinds
func.func @kinds(%x: tensor<6xf32>) -> tensor<6xf32> {
  %e = tensor.empty() : tensor<6xf32>
  // CHECK: lowc.operations = "{operations:{addf.f32:6,cmp.f32:6,cmp.i32:6,fptosi.f32:6,math.exp.f32:6,maxsi.i32:6,mulf.f32:6,select.f32:6,shli.i32:12},weight_bits:0,read_bits:192,written_bits:192}"
  %y = linalg.generic {
    indexing_maps = [affine_map<(d) -> (d)>, affine_map<(d) -> (d)>],
    iterator_types = ["parallel"]} ins(%x : tensor<6xf32>) outs(%e : tensor<6xf32>) {
  ^bb0(%a: f32, %out: f32):
    %c1 = arith.constant 1 : i32
    %one = arith.constant 1 : index
    %d = linalg.index 0 : index
    %next = arith.addi %d, %one : index
    %cast = arith.index_cast %next : index to i32
    %q = arith.fptosi %a : f32 to i32
    %s = arith.shli %q, %c1 : i32
    %t = arith.shli %s, %cast : i32
    %m = arith.maxsi %t, %c1 : i32
    %p = arith.cmpi slt, %m, %c1 : i32
    %f = arith.cmpf olt, %a, %a : f32
    %v = arith.select %p, %a, %a : f32
    %x1 = math.exp %v : f32
    %r = math.fma %x1, %a, %a : f32
    linalg.yield %r : f32
  } -> tensor<6xf32>
  return %y : tensor<6xf32>
}

// -----
// Weights are counted apart.  What depends on them alone is done once, and is not in the sum; a
// broadcast one is read once; behind a barrier the work is done at each call.

util.global private @w = #flow.parameter.named<"model"::"w"> : tensor<8x4xf32>
util.global private @q = #flow.parameter.named<"model"::"q"> : tensor<8xi4>
// CHECK: module attributes {lowc.operations = "{operations:{addf.f32:192,mulf.f32:192,sitofp.i4:8},weight_bits:1056,read_bits:2304,written_bits:1792}"}
// CHECK-LABEL: func.func @weights
func.func @weights(%x: tensor<3x2x4xf32>, %init: tensor<3x2x8xf32>) -> (tensor<3x2x8xf32>, tensor<8xf32>) {
  %w = util.global.load @w : tensor<8x4xf32>
  %e = tensor.empty() : tensor<8x4xf32>
  // CHECK: linalg.generic
  // CHECK-SAME: lowc.operations = "{operations:{mulf.f32:32},weight_bits:1024,read_bits:0,written_bits:1024,once:true}"
  %2 = linalg.generic {
    indexing_maps = [affine_map<(i, j) -> (i, j)>, affine_map<(i, j) -> (i, j)>],
    iterator_types = ["parallel", "parallel"]} ins(%w : tensor<8x4xf32>) outs(%e : tensor<8x4xf32>) {
  ^bb0(%a: f32, %out: f32):
    %m = arith.mulf %a, %a : f32
    linalg.yield %m : f32
  } -> tensor<8x4xf32>
  %te = tensor.empty() : tensor<4x8xf32>
  %t = linalg.transpose ins(%2 : tensor<8x4xf32>) outs(%te : tensor<4x8xf32>) permutation = [1, 0]
  %be = tensor.empty() : tensor<3x4x8xf32>
  %b = linalg.broadcast ins(%t : tensor<4x8xf32>) outs(%be : tensor<3x4x8xf32>) dimensions = [0]
  // CHECK: linalg.batch_matmul
  // CHECK-SAME: lowc.operations = "{operations:{addf.f32:192,mulf.f32:192},weight_bits:1024,read_bits:2304,written_bits:1536}"
  %y = linalg.batch_matmul ins(%x, %b : tensor<3x2x4xf32>, tensor<3x4x8xf32>)
      outs(%init : tensor<3x2x8xf32>) -> tensor<3x2x8xf32>
  %stored = util.global.load @q : tensor<8xi4>
  %codes = util.optimization_barrier %stored : tensor<8xi4>
  %de = tensor.empty() : tensor<8xf32>
  // CHECK: linalg.generic
  // CHECK-SAME: lowc.operations = "{operations:{sitofp.i4:8},weight_bits:32,read_bits:0,written_bits:256}"
  %d = linalg.generic {
    indexing_maps = [affine_map<(d) -> (d)>, affine_map<(d) -> (d)>],
    iterator_types = ["parallel"]} ins(%codes : tensor<8xi4>) outs(%de : tensor<8xf32>) {
  ^bb0(%a: i4, %out: f32):
    %f = arith.sitofp %a : i4 to f32
    linalg.yield %f : f32
  } -> tensor<8xf32>
  return %y, %d : tensor<3x2x8xf32>, tensor<8xf32>
}

// -----
// A dynamic size counts as 1.  Of two branches the sum has the one with more operations: 8 of 32.

// CHECK: module attributes {lowc.operations = "{operations:{addf.f32:32,mulf.f32:32},weight_bits:0,read_bits:1408,written_bits:256,dynamic:true}"}
// CHECK-LABEL: func.func @branches
func.func @branches(%c: i1, %x: tensor<?x4xf32>, %w: tensor<4x8xf32>, %init: tensor<?x8xf32>) -> tensor<?x8xf32> {
  %y = scf.if %c -> (tensor<?x8xf32>) {
    // CHECK: math.exp {{.*}}lowc.operations = "{operations:{math.exp.f32:8},weight_bits:0,read_bits:256,written_bits:256,dynamic:true}"
    %0 = math.exp %init : tensor<?x8xf32>
    scf.yield %0 : tensor<?x8xf32>
  } else {
    // CHECK: linalg.matmul {lowc.operations = "{operations:{addf.f32:32,mulf.f32:32},weight_bits:0,read_bits:1408,written_bits:256,dynamic:true}"}
    %0 = linalg.matmul ins(%x, %w : tensor<?x4xf32>, tensor<4x8xf32>)
        outs(%init : tensor<?x8xf32>) -> tensor<?x8xf32>
    scf.yield %0 : tensor<?x8xf32>
  }
  return %y : tensor<?x8xf32>
}

// -----
// What nobody reads is not counted; what nothing is known of is said.

// CHECK: module attributes {lowc.operations = "{operations:{},weight_bits:0,read_bits:0,written_bits:0,uncounted:{linalg.softmax:1}}"}
// CHECK-LABEL: func.func @dead_and_unknown
func.func @dead_and_unknown(%x: tensor<2x4xf32>) -> tensor<2x4xf32> {
  // CHECK: arith.addf %{{.*}}, %{{.*}} : tensor<2x4xf32>
  %dead = arith.addf %x, %x : tensor<2x4xf32>
  %e = tensor.empty() : tensor<2x4xf32>
  // expected-remark@+1 {{linalg.softmax: its operations are not counted}}
  %y = linalg.softmax dimension(1) ins(%x : tensor<2x4xf32>) outs(%e : tensor<2x4xf32>) -> tensor<2x4xf32>
  return %y : tensor<2x4xf32>
}
