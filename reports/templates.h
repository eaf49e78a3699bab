// What a user's template files do to a document. Internal to reports/.
#pragma once

#include "reports/document.h"

namespace assay::report {

// The parts in the order that `order` asks for, or their own.
std::vector<const Part*> ordered(const Document& document, const Templates& templates);
// The template of that name with {{part}} and {{title}} filled in; `part` itself where there is none.
std::string filled(const Templates& templates, const std::string& name, const std::string& part, const std::string& title);
// Every {{name}} replaced in one pass, so that what is put in is never looked at again.
std::string substitute(const std::string& text, const std::map<std::string, std::string>& values);

}  // namespace assay::report
